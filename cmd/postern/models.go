package main

import (
	"context"
	"os"

	"postern/shared/agents"
	"postern/shared/model"
	"postern/shared/model/bedrock"
	"postern/shared/model/offline"
	"postern/shared/model/openai"
	"postern/shared/secret"
	"postern/shared/settings"
)

// models is every model that this machine can call. None of them makes a call
// before it is asked. Bedrock is there where AWS_REGION is set; its credentials
// are the environment's.
func models(s settings.Settings) (agents.Models, error) {
	compatible, err := openai.New(openai.Config{BaseURL: s.OpenAIBaseURL,
		Key: func(context.Context) (secret.String, error) { return s.OpenAIKey, nil }})
	if err != nil {
		return nil, err
	}
	list := agents.Models{offline.FullName: offline.New(), "openai": compatible}
	if region := os.Getenv("AWS_REGION"); region != "" {
		var amazon model.Model
		if amazon, err = bedrock.New(os.Getenv); err != nil {
			return nil, err
		}
		list["bedrock"] = amazon
	}
	return list, nil
}
