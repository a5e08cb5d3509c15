package jobs

import "postern/shared/secret"

// CourierStored is a Callback as a record has it: nobody has checked it again.
func CourierStored(url, secretText string) *Callback {
	return &Callback{secret.New(url), secret.New(secretText)}
}
