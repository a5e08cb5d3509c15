// Package secretsmanager is the secret.Store of AWS Secrets Manager.
//
// Its client is built from Options and the environment that Lambda gives every
// function, without the SDK's config package: that one looks for profiles and
// instance metadata which a Lambda doesn't have, and costs 2 MB and half of the
// start-up time.
package secretsmanager

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"

	"postern/shared/secret"
)

// Store reads one secret. It is safe for concurrent use.
type Store struct {
	client *secretsmanager.Client
	arn    string
}

// idleConnection is shorter than AWS keeps one open, and than most pauses in
// which a Lambda is frozen.
const idleConnection = 45 * time.Second

// New returns the Store of the secret arn. Region, credentials and the endpoint
// (AWS_ENDPOINT_URL_SECRETS_MANAGER, AWS_ENDPOINT_URL) come from the
// environment, as for any AWS SDK.
func New(arn string, getenv func(string) string) (*Store, error) {
	if arn == "" {
		return nil, errors.New("TOKEN_SECRET_ARN: it is not set, so nobody could be let in; template.yaml sets it, and `sam local` wants API_TOKEN (make env.json)")
	}
	region := getenv("AWS_REGION")
	if region == "" {
		return nil, errors.New("AWS_REGION: it is not set; Lambda sets it")
	}
	options := secretsmanager.Options{
		Region: region,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return credentials(getenv)
		}),
		// secret.Rotating decides about tries.
		Retryer: aws.NopRetryer{},
		HTTPClient: awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
			t.IdleConnTimeout = idleConnection
		}),
	}
	for _, name := range []string{"AWS_ENDPOINT_URL_SECRETS_MANAGER", "AWS_ENDPOINT_URL"} {
		if url := getenv(name); url != "" {
			options.BaseEndpoint = &url
			break
		}
	}
	return &Store{secretsmanager.New(options), arn}, nil
}

func credentials(getenv func(string) string) (aws.Credentials, error) {
	c := aws.Credentials{
		AccessKeyID:     getenv("AWS_ACCESS_KEY_ID"),
		SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"),
		SessionToken:    getenv("AWS_SESSION_TOKEN"),
		Source:          "environment",
	}
	if !c.HasKeys() {
		return aws.Credentials{}, errors.New("AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; Lambda sets them")
	}
	return c, nil
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
