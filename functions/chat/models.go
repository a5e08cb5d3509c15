package main

import (
	"context"
	"os"

	"postern/shared/agents"
	"postern/shared/model/bedrock"
	"postern/shared/model/offline"
	"postern/shared/model/openai"
	"postern/shared/secret"
	"postern/shared/secret/secretsmanager"
	"postern/shared/settings"
)

// models is every model that a deployment can call. None of them makes a call
// before it is asked.
func models(s settings.Settings) (agents.Models, error) {
	key, err := modelKey(s)
	if err != nil {
		return nil, err
	}
	compatible, err := openai.New(openai.Config{BaseURL: s.OpenAIBaseURL, Key: key})
	if err != nil {
		return nil, err
	}
	amazon, err := bedrock.New(os.Getenv)
	if err != nil {
		return nil, err
	}
	return agents.Models{offline.FullName: offline.New(), "openai": compatible, "bedrock": amazon}, nil
}

// modelKey reads the provider's key from its secret, where there is one: it is
// never in the environment of a Lambda.
func modelKey(s settings.Settings) (func(context.Context) (secret.String, error), error) {
	if s.ModelKeyARN == "" {
		return nil, nil
	}
	store, err := secretsmanager.New(s.ModelKeyARN, os.Getenv)
	if err != nil {
		return nil, err
	}
	return (&secret.Cached{Store: store, CacheFor: s.TokenCache}).Get, nil
}
