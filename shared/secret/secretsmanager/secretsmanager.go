// Package secretsmanager is the secret.Store of AWS Secrets Manager.
package secretsmanager

import (
	"context"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"postern/shared/awsclient"
	"postern/shared/secret"
)

// Store reads one secret. It is safe for concurrent use.
type Store struct {
	client *secretsmanager.Client
	arn    string
}

// maxBody bounds an answer, in bytes. A secret has 64 KB, and in JSON some bytes
// take six.
const maxBody = 512 << 10

// New returns the Store of the secret arn. Region, credentials and the endpoint
// (AWS_ENDPOINT_URL_SECRETS_MANAGER, AWS_ENDPOINT_URL) come from the
// environment, as for any AWS SDK.
func New(arn string, getenv func(string) string) (*Store, error) {
	if arn == "" {
		return nil, errors.New("TOKEN_SECRET_ARN: it is not set, so nobody could be let in; template.yaml sets it, and `sam local` wants API_TOKEN (make env.json)")
	}
	access := awsclient.Environment(getenv, "SECRETS_MANAGER")
	if err := access.Check("secret"); err != nil {
		return nil, err
	}
	return &Store{secretsmanager.New(secretsmanager.Options{
		Region:       access.Region,
		BaseEndpoint: access.Endpoint,
		Credentials:  access.Credentials,
		HTTPClient:   awsclient.NewHTTP(awsclient.Limits{Body: maxBody}),
		Retryer:      aws.NopRetryer{}, // secret.Rotating decides about tries
	}), arn}, nil
}

// Read implements secret.Store. It always names the stage: without one some
// servers answer with another version after a rotation.
func (s *Store) Read(ctx context.Context, stage string) (secret.Version, error) {
	out, err := s.client.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{
		SecretId:     &s.arn,
		VersionStage: &stage,
	})
	var missing *types.ResourceNotFoundException
	switch {
	case errors.As(err, &missing) && stage != secret.Current:
		return secret.Version{}, secret.ErrNoVersion
	case err != nil:
		return secret.Version{}, fmt.Errorf("asking Secrets Manager: %w", err)
	case out.SecretString == nil:
		return secret.Version{}, errors.New("the secret is binary: store the token as text")
	}
	return secret.Version{Value: secret.New(*out.SecretString), CreatedAt: aws.ToTime(out.CreatedDate)}, nil
}
