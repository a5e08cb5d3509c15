// Authorizer is the door: API Gateway asks it who is calling before any
// function runs.
package main

import (
	"log"
	"os"

	"postern/functions"
	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/settings"
)

func main() {
	s, err := settings.Parse(settings.Environment(apigw.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	root, err := rootToken(s)
	if err != nil {
		log.Fatal(err)
	}
	table, err := functions.Table(s)
	if err != nil {
		log.Fatal(err)
	}
	apigw.StartAuthorizer(&apigw.Authorizer{
		Verifier:    auth.NewVerifier(keys.NewSource(table, nil), root),
		Addresses:   s.AllowedIPs,
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		DenyRefused: apigw.SAMLocal(),
	})
}
