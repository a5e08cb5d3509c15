package secretsfake_test

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager"
	"github.com/aws/aws-sdk-go-v2/service/secretsmanager/types"
	"github.com/aws/smithy-go"

	"postern/tests/secretsfake"
)

type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

func start(t *testing.T) (*secretsfake.Server, *clock) {
	c := &clock{now: time.Date(2026, 3, 1, 12, 0, 0, 250e6, time.UTC)}
	s := secretsfake.Start(secretsfake.Config{Now: c.Now})
	t.Cleanup(s.Close)
	return s, c
}

func client(t *testing.T, s *secretsfake.Server) *secretsmanager.Client {
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	return secretsmanager.New(secretsmanager.Options{
		BaseEndpoint: aws.String(s.URL),
		Region:       "us-east-1",
		HTTPClient:   &http.Client{Transport: transport},
		Retryer:      aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "example"}, nil
		}),
	})
}

func get(ctx context.Context, c *secretsmanager.Client, id, stage string) (*secretsmanager.GetSecretValueOutput, error) {
	return c.GetSecretValue(ctx, &secretsmanager.GetSecretValueInput{SecretId: aws.String(id), VersionStage: aws.String(stage)})
}

// read returns the value behind a label, or the error's code in brackets.
func read(t *testing.T, c *secretsmanager.Client, id, stage string) string {
	t.Helper()
	out, err := get(t.Context(), c, id, stage)
	var failure smithy.APIError
	if errors.As(err, &failure) {
		return "[" + failure.ErrorCode() + "]"
	}
	if err != nil {
		return "[" + err.Error() + "]"
	}
	return aws.ToString(out.SecretString)
}

func TestLabelsMoveThroughARotation(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	secret, c := s.Create("token"), client(t, s)
	const none = "[ResourceNotFoundException]"
	expect := func(when, current, previous, pending string) {
		t.Helper()
		for stage, want := range map[string]string{
			secretsfake.Current: current, secretsfake.Previous: previous, secretsfake.Pending: pending,
		} {
			if got := read(t, c, secret.ARN(), stage); got != want {
				t.Errorf("%s, %s is %s, want %s", when, stage, got, want)
			}
		}
	}
	expect("without a version", none, none, none)
	secret.Put("one")
	expect("after the first value", "one", none, none)
	secret.Put("two")
	expect("after put-secret-value", "two", "one", none)
	id := secret.PutPending("three")
	expect("after createSecret", "two", "one", "three")
	secret.Promote(id)
	expect("after finishSecret", "three", "two", "three")
	secret.Promote(id)
	expect("after finishSecret again", "three", "two", "three")
	secret.Delete()
	expect("marked for deletion", "[InvalidRequestException]", "[InvalidRequestException]", "[InvalidRequestException]")
	secret.Restore()
	expect("restored", "three", "two", "three")
	if got := read(t, c, "another", secretsfake.Current); got != none {
		t.Errorf("an unknown secret is %s, want %s", got, none)
	}
	if got := read(t, c, "token", secretsfake.Current); got != "three" {
		t.Errorf("by its name the secret is %s, want three", got)
	}
	if v := s.Violations(); len(v) != 0 {
		t.Errorf("the SDK's calls violate: %q", v)
	}
}

func TestTheReplyTellsWhenAVersionWasMade(t *testing.T) {
	t.Parallel()
	s, clock := start(t)
	secret, c := s.Create("token"), client(t, s)
	born := clock.Now()
	id := secret.PutPending("one")
	clock.Advance(time.Hour)
	secret.Promote(id)
	out, err := get(t.Context(), c, secret.ARN(), secretsfake.Current)
	if err != nil {
		t.Fatal(err)
	}
	if !out.CreatedDate.Equal(born) {
		t.Errorf("CreatedDate %v, want %v: when it was put, not when it became current", out.CreatedDate, born)
	}
	if aws.ToString(out.VersionId) != id || aws.ToString(out.ARN) != secret.ARN() || aws.ToString(out.Name) != "token" {
		t.Errorf("version %v of %v, %v", aws.ToString(out.VersionId), aws.ToString(out.ARN), aws.ToString(out.Name))
	}
	if !slices.Contains(out.VersionStages, secretsfake.Current) {
		t.Errorf("stages %v lack AWSCURRENT", out.VersionStages)
	}
}

func TestAVersionCanBeAskedForByItsID(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	secret, c := s.Create("token"), client(t, s)
	oldest, first, second := secret.Put("zero"), secret.Put("one"), secret.Put("two")
	for _, tt := range []struct{ id, stage, want string }{
		{first, secretsfake.Previous, "one"},
		{second, secretsfake.Current, "two"},
		{first, secretsfake.Current, ""},
		{oldest, "", "zero"},
		{oldest, secretsfake.Previous, ""},
	} {
		in := &secretsmanager.GetSecretValueInput{SecretId: aws.String("token"), VersionId: aws.String(tt.id)}
		if tt.stage != "" {
			in.VersionStage = aws.String(tt.stage)
		}
		out, err := c.GetSecretValue(t.Context(), in)
		var missing *types.ResourceNotFoundException
		switch {
		case tt.want == "" && !errors.As(err, &missing):
			t.Errorf("another version's label: %v, want ResourceNotFoundException", err)
		case tt.want != "" && (err != nil || aws.ToString(out.SecretString) != tt.want):
			t.Errorf("%s: %v, want %s", tt.stage, err, tt.want)
		}
	}
}

func TestABinarySecretHasNoString(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.Create("token").PutBinary([]byte{0, 1, 2})
	out, err := get(t.Context(), client(t, s), "token", secretsfake.Current)
	if err != nil || out.SecretString != nil || string(out.SecretBinary) != "\x00\x01\x02" {
		t.Errorf("string %v, binary %v, error %v", out.SecretString, out.SecretBinary, err)
	}
}

func TestInjectedFaults(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		fault *secretsfake.Fault
		want  string // part of what the client reports
	}{
		{"an error of the service", secretsfake.Fail(500, "InternalServiceError"), "InternalServiceError"},
		{"throttling", secretsfake.Fail(400, "ThrottlingException"), "ThrottlingException"},
		{"a body that is no JSON", secretsfake.Garbage("<html>"), "deserialization failed"},
		{"a connection that breaks", secretsfake.Drop(), "EOF"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t)
			secret, c := s.Create("token"), client(t, s)
			secret.Put("one")
			s.Inject(tt.fault)
			if got := read(t, c, "token", secretsfake.Current); !strings.Contains(got, tt.want) {
				t.Errorf("the client reads %s, want %s", got, tt.want)
			}
			s.Heal()
			if got := read(t, c, "token", secretsfake.Current); got != "one" {
				t.Errorf("after healing: %s, want the value", got)
			}
		})
	}
}

func TestAnEmptyReplyHasNoValue(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.Create("token").Put("one")
	s.Inject(secretsfake.Garbage("{}"))
	if got := read(t, client(t, s), "token", secretsfake.Current); got != "" {
		t.Errorf("read %q, want nothing and no error", got)
	}
}

func TestAFaultCanBeNarrowed(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	secret, c := s.Create("token"), client(t, s)
	secret.Put("one")
	secret.Put("two")
	s.Inject(secretsfake.Fail(500, "InternalServiceError").On(secretsfake.Previous).Times(2))
	var got []string
	for _, stage := range []string{secretsfake.Current, secretsfake.Previous, secretsfake.Previous, secretsfake.Previous} {
		got = append(got, read(t, c, "token", stage))
	}
	if want := []string{"two", "[InternalServiceError]", "[InternalServiceError]", "one"}; !slices.Equal(got, want) {
		t.Errorf("read %v, want %v", got, want)
	}
	if s.Calls(secretsfake.Current) != 1 || s.Calls(secretsfake.Previous) != 3 || s.Total() != 4 {
		t.Errorf("counted %d and %d calls of %d, want 1, 3 and 4", s.Calls(secretsfake.Current), s.Calls(secretsfake.Previous), s.Total())
	}
}

func TestACallHangsUntilItIsReleased(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.Create("token").Put("one")
	c := client(t, s)
	fault, release := secretsfake.Hang()
	s.Inject(fault.Times(1))
	answer := make(chan string)
	go func() { answer <- read(t, c, "token", secretsfake.Current) }()
	if err := s.Await(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-answer:
		t.Fatalf("answered %s while it should hang", got)
	default:
	}
	release()
	if got := <-answer; got != "one" {
		t.Errorf("after the release: %s, want the value", got)
	}
}

func TestAHangingCallEndsWithItsClient(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.Create("token").Put("one")
	fault, _ := secretsfake.Hang()
	s.Inject(fault)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := get(ctx, client(t, s), "token", secretsfake.Current); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error = %v, want the client's own deadline", err)
	}
}

func TestADelayedCallIsAnswered(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	s.Create("token").Put("one")
	s.Inject(secretsfake.Delay(20 * time.Millisecond))
	began := time.Now()
	if got := read(t, client(t, s), "token", secretsfake.Current); got != "one" || time.Since(began) < 20*time.Millisecond {
		t.Errorf("read %s after %v", got, time.Since(began))
	}
}

func TestAwaitEndsWithItsContext(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Await(ctx, 1); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want the context's", err)
	}
}

func TestACallThatIsNotAllowedIsRefused(t *testing.T) {
	t.Parallel()
	s, _ := start(t)
	secret, c := s.Create("token"), client(t, s)
	secret.Put("value")
	allowed, asked := false, ""
	s.Authorize(func(principal, action, resource, leadingKey string) bool {
		asked = strings.Join([]string{principal, action, resource, leadingKey}, " ")
		return allowed
	})
	_, err := get(t.Context(), c, "token", secretsfake.Current)
	var failure smithy.APIError
	if !errors.As(err, &failure) || failure.ErrorCode() != "AccessDeniedException" ||
		!strings.Contains(failure.ErrorMessage(), "is not authorized to perform: secretsmanager:GetSecretValue on resource: "+secret.ARN()) {
		t.Error(err)
	}
	if want := "AKIAEXAMPLE secretsmanager:GetSecretValue " + secret.ARN() + " "; asked != want {
		t.Errorf("asked about %q", asked)
	}
	if len(s.Violations()) != 1 {
		t.Error(s.Violations())
	}
	allowed = true
	if got := read(t, c, "token", secretsfake.Current); got != "value" || len(s.Violations()) != 1 {
		t.Errorf("allowed: %s", got)
	}
}

func TestCallsAgainstTheRulesAreReported(t *testing.T) {
	t.Parallel()
	signed := "AWS4-HMAC-SHA256 Credential=AKIA/20260301/us-east-1/secretsmanager/aws4_request, SignedHeaders=host;x-amz-date, Signature=" + strings.Repeat("a", 64)
	tests := []struct {
		name          string
		authorization string
		target        string
		body          string
		status        int
		violation     string
	}{
		{"unsigned", "", "secretsmanager.GetSecretValue", `{"SecretId":"token","VersionStage":"AWSCURRENT"}`, 400, "signed"},
		{"signed for another service", strings.Replace(signed, "secretsmanager", "ssm", 1), "secretsmanager.GetSecretValue", `{"SecretId":"token","VersionStage":"AWSCURRENT"}`, 400, "signed"},
		{"without a stage, answered all the same", signed, "secretsmanager.GetSecretValue", `{"SecretId":"token"}`, 200, "VersionStage"},
		{"another operation", signed, "secretsmanager.ListSecrets", `{"VersionStage":"AWSCURRENT"}`, 400, ""},
		{"a body that is no JSON", signed, "secretsmanager.GetSecretValue", `{`, 400, "VersionStage"},
		{"by the rules", signed, "secretsmanager.GetSecretValue", `{"SecretId":"token","VersionStage":"AWSCURRENT"}`, 200, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s, _ := start(t)
			s.Create("token").Put("one")
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL, strings.NewReader(tt.body))
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Content-Type", "application/x-amz-json-1.1")
			r.Header.Set("X-Amz-Target", tt.target)
			r.Header.Set("X-Amz-Date", "20260301T120000Z")
			r.Header.Set("Authorization", tt.authorization)
			reply, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			reply.Body.Close()
			if reply.StatusCode != tt.status {
				t.Errorf("status %d, want %d", reply.StatusCode, tt.status)
			}
			found := s.Violations()
			if (tt.violation == "") != (len(found) == 0) || !strings.Contains(strings.Join(found, "\n"), tt.violation) {
				t.Errorf("violations %q, want %q", found, tt.violation)
			}
		})
	}
}
