package secretsmanager_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/secretsmanager"

	"postern/shared/secret"
	"postern/shared/secret/secretsmanager"
	"postern/tests/moto"
	"postern/tests/secretsfake"
)

// environment is what Lambda gives a function, and where Secrets Manager is.
func environment(endpoint string) func(string) string {
	return func(name string) string {
		return map[string]string{
			"AWS_REGION":                       "us-east-1",
			"AWS_ACCESS_KEY_ID":                "AKIAEXAMPLE",
			"AWS_SECRET_ACCESS_KEY":            "example",
			"AWS_SESSION_TOKEN":                "example",
			"AWS_ENDPOINT_URL_SECRETS_MANAGER": endpoint,
		}[name]
	}
}

func read(t *testing.T, s *secretsmanager.Store, stage string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	v, err := s.Read(ctx, stage)
	if err == nil && v.CreatedAt.IsZero() {
		t.Errorf("%s: no creation date", stage)
	}
	return v.Value.Reveal(), err
}

// rotation is what must hold against anything that speaks Secrets Manager's
// wire: put makes the secret, or gives it its next value.
func rotation(t *testing.T, s *secretsmanager.Store, put func(value string)) {
	t.Helper()
	put("first")
	if v, err := read(t, s, secret.Current); v != "first" || err != nil {
		t.Errorf("current: %q, %v; want first", v, err)
	}
	if v, err := read(t, s, secret.Previous); !errors.Is(err, secret.ErrNoVersion) {
		t.Errorf("previous before the first rotation: %q, %v; want ErrNoVersion", v, err)
	}
	put("second")
	if v, err := read(t, s, secret.Current); v != "second" || err != nil {
		t.Errorf("current: %q, %v; want second", v, err)
	}
	if v, err := read(t, s, secret.Previous); v != "first" || err != nil {
		t.Errorf("previous: %q, %v; want first", v, err)
	}
}

func TestARotationThroughTheSDK(t *testing.T) {
	t.Parallel()
	server := secretsfake.Start(secretsfake.Config{})
	defer server.Close()
	root := server.Create("root")
	s, err := secretsmanager.New(root.ARN(), environment(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	rotation(t, s, func(value string) { root.Put(value) })
	if v := server.Violations(); len(v) > 0 {
		t.Error(v)
	}
}

// TestARotationOnMoto is the same against moto, an independent implementation
// of AWS.
func TestARotationOnMoto(t *testing.T) {
	t.Parallel()
	url := moto.Start(t)
	client := sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.CredentialsProviderFunc(
		func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "example"}, nil
		})})
	made, err := client.CreateSecret(t.Context(), &sdk.CreateSecretInput{Name: aws.String("root"), SecretString: aws.String("first")})
	if err != nil {
		t.Fatal(err)
	}
	s, err := secretsmanager.New(*made.ARN, environment(url))
	if err != nil {
		t.Fatal(err)
	}
	rotation(t, s, func(value string) {
		if value == "first" {
			return
		}
		if _, err := client.PutSecretValue(t.Context(), &sdk.PutSecretValueInput{SecretId: made.ARN, SecretString: &value}); err != nil {
			t.Fatal(err)
		}
	})
}

func TestFailuresAreErrorsAndSayNothingSecret(t *testing.T) {
	t.Parallel()
	for name, breakIt := range map[string]func(*secretsfake.Server, *secretsfake.Secret){
		"an error": func(s *secretsfake.Server, _ *secretsfake.Secret) {
			s.Inject(secretsfake.Fail(500, "InternalServiceError"))
		},
		"a refusal": func(s *secretsfake.Server, _ *secretsfake.Secret) {
			s.Inject(secretsfake.Fail(400, "AccessDeniedException"))
		},
		"garbage":           func(s *secretsfake.Server, _ *secretsfake.Secret) { s.Inject(secretsfake.Garbage("canary")) },
		"a cut connection":  func(s *secretsfake.Server, _ *secretsfake.Secret) { s.Inject(secretsfake.Drop()) },
		"a binary secret":   func(_ *secretsfake.Server, root *secretsfake.Secret) { root.PutBinary([]byte("canary")) },
		"a secret deleted":  func(_ *secretsfake.Server, root *secretsfake.Secret) { root.Delete() },
		"no value was made": func(*secretsfake.Server, *secretsfake.Secret) {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := secretsfake.Start(secretsfake.Config{})
			defer server.Close()
			root := server.Create("root")
			if name != "no value was made" {
				root.Put("canary")
			}
			breakIt(server, root)
			s, err := secretsmanager.New(root.ARN(), environment(server.URL))
			if err != nil {
				t.Fatal(err)
			}
			_, err = read(t, s, secret.Current)
			if err == nil || errors.Is(err, secret.ErrNoVersion) {
				t.Fatalf("error %v: a missing current version is a failure, not a state", err)
			}
			if name != "garbage" && strings.Contains(err.Error(), "canary") {
				t.Errorf("P4: the error has the secret in it: %v", err)
			}
			if server.Total() != 1 {
				t.Errorf("%d calls: tries are secret.Rotating's to count", server.Total())
			}
		})
	}
}

func TestAReadEndsWithItsContext(t *testing.T) {
	t.Parallel()
	server := secretsfake.Start(secretsfake.Config{})
	defer server.Close()
	root := server.Create("root")
	root.Put("value")
	hang, release := secretsfake.Hang()
	defer release()
	server.Inject(hang)
	s, err := secretsmanager.New(root.ARN(), environment(server.URL))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { server.Await(ctx, 1); cancel() }()
	if _, err := s.Read(ctx, secret.Current); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want the context's", err)
	}
}

// P18: what is missing is named, before anybody asks for a token.
func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ arn, region, want string }{
		{"", "us-east-1", "TOKEN_SECRET_ARN"},
		{"arn:aws:secretsmanager:us-east-1:1:secret:x", "", "AWS_REGION"},
	} {
		_, err := secretsmanager.New(row.arn, func(name string) string {
			return map[string]string{"AWS_REGION": row.region}[name]
		})
		if err == nil || !strings.Contains(err.Error(), row.want) {
			t.Errorf("error %v, want one that names %s", err, row.want)
		}
	}
	s, err := secretsmanager.New("arn:aws:secretsmanager:us-east-1:1:secret:x", func(name string) string {
		return map[string]string{"AWS_REGION": "us-east-1"}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := read(t, s, secret.Current); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("error %v, want one that names AWS_ACCESS_KEY_ID", err)
	}
}
