package main

import (
	"os"

	"postern/shared/apigw"
	"postern/shared/auth"
	"postern/shared/secret"
	"postern/shared/secret/secretsmanager"
	"postern/shared/settings"
)

// rootToken is the source of the root token: the stack's secret, or API_TOKEN
// under `sam local`, which has no stack.
func rootToken(s settings.Settings) (auth.Source, error) {
	if apigw.SAMLocal() && s.Root != nil {
		return new(auth.Configured).Add(*s.Root, auth.RootCaller()), nil
	}
	store, err := secretsmanager.New(s.TokenSecretARN, os.Getenv)
	if err != nil {
		return nil, err
	}
	return auth.Deployed{Token: secret.NewRotating(secret.Config{Store: store, CacheFor: s.TokenCache, Grace: s.TokenGrace})}, nil
}
