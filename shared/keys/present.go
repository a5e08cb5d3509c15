package keys

import (
	"context"
	"errors"
	"time"

	"postern/shared/auth"
	"postern/shared/table"
)

// Present returns a function that tells who a caller from before is now: the
// holder of an issued key as its record in t says, whatever the key's token, or an
// auth.Reason if the key is refused. Who has no issued key is who it was. It
// reads the record each time; an error that is no Reason means that it couldn't.
func Present(t table.Table) func(ctx context.Context, was auth.Caller) (auth.Caller, error) {
	return func(ctx context.Context, was auth.Caller) (auth.Caller, error) {
		if was.Kind != auth.IssuedKey {
			return was, nil
		}
		if !isID(was.ID) {
			return auth.Caller{}, auth.Unknown
		}
		r, err := read(ctx, t, was.ID)
		if errors.Is(err, table.ErrNotFound) {
			return auth.Caller{}, auth.Unknown
		}
		if err != nil {
			return auth.Caller{}, err
		}
		if err := r.State(time.Now()); err != nil {
			return auth.Caller{}, err
		}
		return r.caller()
	}
}
