// Package awsclient is what our clients of AWS have in common: where a service
// is and as whom it is asked (Access), and how its requests are sent (HTTP).
// Leaves that speak to AWS import it, and nothing else does.
//
// Clients are built from their service's Options and the environment that Lambda
// gives every function, without the SDK's config package: that one looks for
// profiles and instance metadata which a Lambda doesn't have, and costs 2 MB and
// half of the start-up time. A program for one machine may load a profile with
// it, and hands over what it found (Access.As).
//
// Tries are the leaf's to count, so its Options get aws.NopRetryer.
package awsclient

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

var (
	// ErrNoCredentials is a request's without credentials in the environment.
	ErrNoCredentials = errors.New("no AWS credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set; Lambda sets them")
	// ErrProvider is a request's whose provider failed. It is in place of the
	// provider's own error, which may quote the credentials that it failed to
	// read, as credential_process' does.
	ErrProvider = errors.New("no AWS credentials: neither the environment nor a profile gave any; `aws sts get-caller-identity` tells why")
)

// Access says where a service is, and as whom it is asked.
type Access struct {
	Region      string
	Endpoint    *string // nil: the region's own
	Credentials aws.CredentialsProvider
}

// Environment is the Access that the environment gives, as for any AWS SDK:
// AWS_REGION; AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN,
// read at each request; AWS_ENDPOINT_URL_<service> or AWS_ENDPOINT_URL.
func Environment(getenv func(string) string, service string) Access {
	a := Access{Region: getenv("AWS_REGION")}
	for _, name := range []string{"AWS_ENDPOINT_URL_" + service, "AWS_ENDPOINT_URL"} {
		if url := getenv(name); url != "" {
			a.Endpoint = &url
			break
		}
	}
	a.Credentials = aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		c := aws.Credentials{
			AccessKeyID:     getenv("AWS_ACCESS_KEY_ID"),
			SecretAccessKey: getenv("AWS_SECRET_ACCESS_KEY"),
			SessionToken:    getenv("AWS_SESSION_TOKEN"),
			Source:          "environment",
		}
		if !c.HasKeys() {
			return aws.Credentials{}, ErrNoCredentials
		}
		return c, nil
	})
	return a
}

// As is a with a profile's region, unless that is empty, and its credentials,
// unless they are nil. The provider is asked before each request, so it should
// cache.
func (a Access) As(region string, provider aws.CredentialsProvider) Access {
	if region != "" {
		a.Region = region
	}
	if provider != nil {
		a.Credentials = aws.CredentialsProviderFunc(func(ctx context.Context) (aws.Credentials, error) {
			c, err := provider.Retrieve(ctx)
			if err != nil {
				return aws.Credentials{}, ErrProvider
			}
			return c, nil
		})
	}
	return a
}

// Check fails if there is no region. what is the thing that is looked for there.
func (a Access) Check(what string) error {
	if a.Region == "" {
		return fmt.Errorf("AWS_REGION: it is not set, and no profile has a region; name one that has the %s, for example eu-west-1", what)
	}
	return nil
}

// Pause waits for d, as before another try, and reports whether ctx outlasts it.
func Pause(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
