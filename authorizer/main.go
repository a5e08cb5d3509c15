// Authorizer is the door: API Gateway asks it who is calling before any
// function runs.
package main

import (
	"log"
	"os"

	"github.com/aws/aws-lambda-go/lambda"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/auth"
	"postern/shared/secret"
	"postern/shared/secret/secretsmanager"
	"postern/shared/settings"
)

func main() {
	s, err := settings.Parse(settings.Environment(apigw.Getenv))
	if err != nil {
		log.Fatal(err)
	}
	local := apigw.SAMLocal()
	var source auth.Source
	if local && s.Root != nil {
		source = new(auth.Configured).Add(*s.Root, auth.RootCaller())
	} else if store, err := secretsmanager.New(s.TokenSecretARN, os.Getenv); err == nil {
		source = auth.Deployed{Token: secret.NewRotating(secret.Config{Store: store, CacheFor: s.TokenCache, Grace: s.TokenGrace})}
	} else {
		log.Fatal(err)
	}
	authorizer := &apigw.Authorizer{
		Verifier:    auth.NewVerifier(source),
		Addresses:   s.AllowedIPs,
		Log:         api.NewLogger(os.Stderr, s.LogLevel),
		DenyRefused: local,
	}
	lambda.Start(authorizer.Handle)
}
