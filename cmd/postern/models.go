package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"

	"postern/shared/agents"
	"postern/shared/model"
	"postern/shared/model/bedrock"
	"postern/shared/model/offline"
	"postern/shared/model/openai"
	"postern/shared/secret"
	"postern/shared/settings"
)

// models is every model that this machine can call. None of them makes a call
// before it is asked. Bedrock has to be opened first, see openModels.
func models(s settings.Settings) (agents.Models, error) {
	compatible, err := openai.New(openai.Config{BaseURL: s.OpenAIBaseURL,
		Key: func(context.Context) (secret.String, error) { return s.OpenAIKey, nil }})
	if err != nil {
		return nil, err
	}
	return agents.Models{offline.FullName: offline.New(), "openai": compatible, bedrock.Provider: new(amazon)}, nil
}

// openModels opens Bedrock if an agent of the file uses it. For all others
// nothing of AWS is read, and nothing that is wrong there stops them.
func openModels(models agents.Models, file *agents.File) error {
	for _, a := range file.Agents {
		if m, ok := models[a.Model.Provider].(*amazon); ok {
			return m.open()
		}
	}
	return nil
}

// amazon is Bedrock as AWS's own tools reach it: region and credentials are the
// environment's, else those of a profile in ~/.aws (AWS_PROFILE names one). It is
// a model once it is open.
type amazon struct{ model.Model }

// open reads the environment and ~/.aws, and sends nothing: whatever a profile
// takes to get its credentials happens at the first chat. That is why the
// defaults mode is set here; "auto", which a profile may say, asks the instance
// metadata.
func (a *amazon) open() error {
	found, err := config.LoadDefaultConfig(context.Background(), config.WithDefaultsMode(aws.DefaultsModeLegacy))
	var absent config.SharedConfigProfileNotExistError
	switch {
	case errors.As(err, &absent):
		return fmt.Errorf("AWS_PROFILE: there is no profile %.64q in ~/.aws/config or ~/.aws/credentials; `aws configure list-profiles` lists those there are", absent.Profile)
	case err != nil: // its text may repeat what stands in a file of secrets
		return errors.New("AWS_PROFILE: this profile, or else the default one, can't be read from ~/.aws; `aws sts get-caller-identity` tells why")
	}
	a.Model, err = bedrock.New(os.Getenv, bedrock.WithCredentials(found.Region, found.Credentials))
	return err
}
