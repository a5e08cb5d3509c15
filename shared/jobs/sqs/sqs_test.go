package sqs_test

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	sdk "github.com/aws/aws-sdk-go-v2/service/sqs"

	"postern/shared/jobs/sqs"
	"postern/tests/moto"
	"postern/tests/sqsfake"
)

const id = "CANARYABCDEFGHIJKLMNOPQ234"

// environment is what Lambda gives a function, and where SQS is.
func environment(endpoint string) func(string) string {
	return func(name string) string {
		return map[string]string{
			"AWS_REGION":            "us-east-1",
			"AWS_ACCESS_KEY_ID":     "AKIAEXAMPLE",
			"AWS_SECRET_ACCESS_KEY": "example",
			"AWS_SESSION_TOKEN":     "example",
			"AWS_ENDPOINT_URL_SQS":  endpoint,
		}[name]
	}
}

// start is a fake with one queue, and the leaf that sends to it.
func start(t *testing.T) (*sqsfake.Server, *sqsfake.Queue, *sqs.Queue) {
	t.Helper()
	fake := sqsfake.Start()
	t.Cleanup(func() {
		if v := fake.Violations(); len(v) > 0 {
			t.Error(v)
		}
		fake.Close()
	})
	queue := fake.Create("jobs", sqsfake.Attributes{})
	return fake, queue, open(t, queue.URL(), fake.URL)
}

func open(t *testing.T, url, endpoint string) *sqs.Queue {
	t.Helper()
	q, err := sqs.New(sqs.Config{QueueURL: url, Getenv: environment(endpoint), Patience: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return q
}

// arrived is how many messages are in the queue. Each is the id and nothing else.
func arrived(t *testing.T, queue *sqsfake.Queue) int {
	t.Helper()
	messages := queue.Messages()
	for _, m := range messages {
		if m.Body != id {
			t.Errorf("a message is %q", m.Body)
		}
	}
	return len(messages)
}

func TestAMessageIsTheID(t *testing.T) {
	t.Parallel()
	fake, queue, leaf := start(t)
	if err := leaf.Send(t.Context(), id, "alice"); err != nil {
		t.Fatal(err)
	}
	if n := arrived(t, queue); n != 1 || fake.Calls("SendMessage") != 1 || fake.Calls("") != 1 {
		t.Errorf("%d messages in %d calls of %d", n, fake.Calls("SendMessage"), fake.Calls(""))
	}
}

// SQS is fair between owners whom it can tell apart, and isn't told who they are.
func TestAnOwnerIsAGroup(t *testing.T) {
	t.Parallel()
	_, queue, leaf := start(t)
	owners := []string{"alice", "alice", "bob", "Alice", strings.Repeat("o", 1000), "ö \n"}
	for _, owner := range owners {
		if err := leaf.Send(t.Context(), id, owner); err != nil {
			t.Errorf("%.20q: %v", owner, err)
		}
	}
	groups := map[string]string{}
	for i, m := range queue.Messages() {
		if other, there := groups[m.Group]; m.Group == "" || strings.Contains(m.Group, "alice") || there && other != owners[i] {
			t.Errorf("%.20q is the group %q, as %.20q is", owners[i], m.Group, other)
		}
		groups[m.Group] = owners[i]
	}
	if len(groups) != 5 {
		t.Errorf("groups are %v", groups)
	}
}

// TestOnMoto is the same against moto, an independent implementation of AWS.
func TestOnMoto(t *testing.T) {
	t.Parallel()
	url := moto.Start(t)
	client := sdk.New(sdk.Options{Region: "us-east-1", BaseEndpoint: &url, Credentials: aws.CredentialsProviderFunc(
		func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "example"}, nil
		})})
	made, err := client.CreateQueue(t.Context(), &sdk.CreateQueueInput{QueueName: aws.String("jobs")})
	if err != nil {
		t.Fatal(err)
	}
	if err := open(t, *made.QueueUrl, url).Send(t.Context(), id, "alice"); err != nil {
		t.Fatal(err)
	}
	got, err := client.ReceiveMessage(t.Context(), &sdk.ReceiveMessageInput{QueueUrl: made.QueueUrl})
	if err != nil || len(got.Messages) != 1 || aws.ToString(got.Messages[0].Body) != id {
		t.Errorf("received %v, %v", got, err)
	}
	err = open(t, *made.QueueUrl+"-2", url).Send(t.Context(), id, "alice")
	if err == nil || !strings.Contains(err.Error(), "JOBS_QUEUE_URL") {
		t.Errorf("to another queue: %v", err)
	}
}

// Each failure is met once and heals, and then it lasts. A try is repeated where
// that may help, and only there.
func TestFailures(t *testing.T) {
	t.Parallel()
	garbage := func(body string) func() *sqsfake.Fault {
		return func() *sqsfake.Fault { return sqsfake.Garbage(200, body) }
	}
	fail := func(status int, code string) func() *sqsfake.Fault {
		return func() *sqsfake.Fault { return sqsfake.Fail(status, code) }
	}
	other := func(body []byte) []byte { // of another message
		return bytes.Replace(body, []byte(`"MD5OfMessageBody":"`), []byte(`"MD5OfMessageBody":"0`), 1)
	}
	for _, row := range []struct {
		name   string
		fault  func() *sqsfake.Fault
		again  bool
		stored int // by a try that fails
		told   string
	}{
		{"an error", fail(500, "InternalFailure"), true, 0, `HTTP status 500, "InternalFailure"`},
		{"out of service", fail(503, "ServiceUnavailable"), true, 0, "HTTP status 503"},
		{"throttled", fail(400, "RequestThrottled"), true, 0, `HTTP status 400, "RequestThrottled"`},
		{"throttled by AWS", fail(400, "ThrottlingException"), true, 0, "HTTP status 400"},
		{"too many requests", fail(429, "TooMany"), true, 0, "HTTP status 429"},
		{"denied", fail(403, "AccessDeniedException"), false, 0, "sqs:SendMessage"},
		{"no such queue", fail(400, "QueueDoesNotExist"), false, 0, "JOBS_QUEUE_URL"},
		{"no such queue, in the old words", fail(400, "AWS.SimpleQueueService.NonExistentQueue"), false, 0, "JOBS_QUEUE_URL"},
		{"a refusal", fail(400, "InvalidMessageContents"), false, 0, `HTTP status 400, "InvalidMessageContents"`},
		{"a page for people", garbage("<html>" + id), true, 0, "the answer makes no sense"},
		{"an empty answer", garbage(""), true, 0, "the answer makes no sense"},
		{"an answer without a checksum", garbage(`{"MessageId":"` + id + `"}`), true, 0, "the answer makes no sense"},
		{"another message's checksum", func() *sqsfake.Fault { return sqsfake.Damage(other) }, true, 1, "the answer makes no sense"},
		{"an error that quotes", func() *sqsfake.Fault { return sqsfake.Garbage(400, `{"__type":"Odd","message":"`+id+`"}`) }, false, 0, `HTTP status 400, "Odd"`},
		{"a broken connection", sqsfake.Drop, true, 0, "no answer"},
		{"a lost answer", sqsfake.Lose, true, 1, "no answer"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			fake, queue, leaf := start(t)
			fake.Inject(row.fault().Times(1))
			err, want := leaf.Send(t.Context(), id, "alice"), row.stored
			if row.again {
				want++
			}
			if (err == nil) != row.again || arrived(t, queue) != want {
				t.Errorf("once: %v, %d messages", err, arrived(t, queue))
			}
			tries := fake.Calls("")
			fake.Inject(row.fault())
			err = leaf.Send(t.Context(), id, "alice")
			if err == nil || !strings.HasPrefix(err.Error(), "sending a job to SQS: ") || !strings.Contains(err.Error(), row.told) {
				t.Errorf("it lasts: %v", err)
			}
			if err != nil && strings.Contains(err.Error(), id) {
				t.Errorf("P4: the error quotes the message: %v", err)
			}
			if n := fake.Calls("") - tries; n != tries || row.again != (n == 2) {
				t.Errorf("%d tries, then %d", tries, n)
			}
		})
	}
}

func TestNobodyIsThere(t *testing.T) {
	t.Parallel()
	const nobody = "http://127.0.0.1:1" // a port of the system's choice may soon be another test's
	err := open(t, "http://127.0.0.1/1/jobs", nobody).Send(t.Context(), id, "alice")
	if err == nil || !strings.Contains(err.Error(), "connection refused") {
		t.Errorf("error %v", err)
	}
}

// A try that gets no answer ends by itself, and the next one may get one.
func TestATryIsBounded(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		hang     int // tries
		patience time.Duration
		least    time.Duration // that it takes
		told     string
	}{
		{"the first, for 2 s", 1, 0, 2 * time.Second, ""},
		{"both", 2, 500 * time.Millisecond, time.Second, "sending a job to SQS: no answer in time"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			try := func() (told string, took time.Duration, messages int) {
				fake, queue, _ := start(t)
				hang, release := sqsfake.Hang()
				defer release()
				fake.Inject(hang.Times(row.hang))
				leaf, err := sqs.New(sqs.Config{QueueURL: queue.URL(), Getenv: environment(fake.URL), Patience: row.patience})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				defer cancel()
				begin := time.Now()
				if err := leaf.Send(ctx, id, "alice"); err != nil {
					told = err.Error()
				}
				return told, time.Since(begin), arrived(t, queue)
			}
			told, took, messages := try()
			for n := 0; n < 5 && told != row.told; n++ { // a machine may be busy for as long as a try takes
				told, took, messages = try()
			}
			if told != row.told || took < row.least || messages != 2-row.hang {
				t.Errorf("%q after %s, %d messages", told, took, messages)
			}
		})
	}
}

func TestSendEndsWithItsContext(t *testing.T) {
	t.Parallel()
	fake, _, leaf := start(t)
	hang, release := sqsfake.Hang()
	defer release()
	fake.Inject(hang)
	ctx, leave := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer leave()
	if err := leaf.Send(ctx, id, "alice"); !errors.Is(err, context.DeadlineExceeded) || fake.Calls("") > 1 {
		t.Errorf("error %v, want the context's; %d tries", err, fake.Calls(""))
	}
}

// P18: what is missing is named, with its cure.
func TestWhatIsMissingIsNamed(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ url, region, want string }{
		{"", "us-east-1", "JOBS_QUEUE_URL: "},
		{"https://sqs.us-east-1.amazonaws.com/1/jobs", "", "AWS_REGION: "},
	} {
		_, err := sqs.New(sqs.Config{QueueURL: row.url, Getenv: func(name string) string {
			return map[string]string{"AWS_REGION": row.region}[name]
		}})
		if err == nil || !strings.HasPrefix(err.Error(), row.want) {
			t.Errorf("error %v, want one that begins with %s", err, row.want)
		}
	}
	leaf, err := sqs.New(sqs.Config{QueueURL: "https://sqs.us-east-1.amazonaws.com/1/jobs", Getenv: func(name string) string {
		return map[string]string{"AWS_REGION": "us-east-1"}[name]
	}})
	if err != nil {
		t.Fatal(err)
	}
	if err := leaf.Send(t.Context(), id, "alice"); err == nil || !strings.Contains(err.Error(), "AWS_ACCESS_KEY_ID") {
		t.Errorf("error %v, want one that names AWS_ACCESS_KEY_ID", err)
	}
}
