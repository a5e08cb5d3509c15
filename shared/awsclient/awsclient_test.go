package awsclient_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"

	"postern/shared/awsclient"
)

func environment(set ...string) func(string) string {
	return func(name string) string {
		for _, s := range set {
			if value, found := strings.CutPrefix(s, name+"="); found {
				return value
			}
		}
		return ""
	}
}

func TestTheEnvironmentSaysWhereAndAsWhom(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name     string
		set      []string
		endpoint string
	}{
		{"the region's own endpoint", nil, ""},
		{"every service's", []string{"AWS_ENDPOINT_URL=http://all"}, "http://all"},
		{"this service's", []string{"AWS_ENDPOINT_URL_SQS=http://sqs"}, "http://sqs"},
		{"this service's before every service's", []string{"AWS_ENDPOINT_URL=http://all", "AWS_ENDPOINT_URL_SQS=http://sqs"}, "http://sqs"},
		{"another service's isn't this one's", []string{"AWS_ENDPOINT_URL_SNS=http://sns"}, ""},
	} {
		a := awsclient.Environment(environment(append(row.set, "AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=secret", "AWS_SESSION_TOKEN=session")...), "SQS")
		if got := aws.ToString(a.Endpoint); got != row.endpoint || (a.Endpoint == nil) != (row.endpoint == "") {
			t.Errorf("%s: %q, want %q", row.name, got, row.endpoint)
		}
		if a.Region != "eu-west-1" || a.Check("queue") != nil {
			t.Errorf("%s: region %q, %v", row.name, a.Region, a.Check("queue"))
		}
		got, err := a.Credentials.Retrieve(t.Context())
		want := aws.Credentials{AccessKeyID: "id", SecretAccessKey: "secret", SessionToken: "session", Source: "environment"}
		if diff := cmp.Diff(want, got); diff != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", row.name, err, diff)
		}
	}
}

func TestWhatTheEnvironmentLacks(t *testing.T) {
	t.Parallel()
	if err := awsclient.Environment(environment(), "SQS").Check("queue"); err == nil || !strings.HasPrefix(err.Error(), "AWS_REGION: ") || !strings.Contains(err.Error(), "has the queue") {
		t.Errorf("without a region: %v", err)
	}
	for _, set := range [][]string{nil, {"AWS_ACCESS_KEY_ID=id"}, {"AWS_SECRET_ACCESS_KEY=secret"}} {
		if _, err := awsclient.Environment(environment(set...), "SQS").Credentials.Retrieve(t.Context()); !errors.Is(err, awsclient.ErrNoCredentials) {
			t.Errorf("with %q: %v", set, err)
		}
	}
}

func TestCredentialsAreReadAnew(t *testing.T) {
	t.Parallel()
	now := "one"
	a := awsclient.Environment(func(string) string { return now }, "SQS")
	now = "two"
	if c, err := a.Credentials.Retrieve(t.Context()); c.AccessKeyID != "two" || err != nil {
		t.Errorf("%q, %v", c.AccessKeyID, err)
	}
}

func TestAProfileGoesBeforeTheEnvironment(t *testing.T) {
	t.Parallel()
	from := awsclient.Environment(environment("AWS_REGION=eu-west-1", "AWS_ACCESS_KEY_ID=id", "AWS_SECRET_ACCESS_KEY=secret"), "SQS")
	profile := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "profile's"}, nil
	})
	for _, row := range []struct {
		name, region string
		provider     aws.CredentialsProvider
		wantRegion   string
		wantID       string
	}{
		{"neither", "", nil, "eu-west-1", "id"},
		{"a region", "eu-north-1", nil, "eu-north-1", "id"},
		{"credentials", "", profile, "eu-west-1", "profile's"},
		{"both", "eu-north-1", profile, "eu-north-1", "profile's"},
	} {
		a := from.As(row.region, row.provider)
		c, err := a.Credentials.Retrieve(t.Context())
		if a.Region != row.wantRegion || c.AccessKeyID != row.wantID || err != nil {
			t.Errorf("%s: %q, %q, %v", row.name, a.Region, c.AccessKeyID, err)
		}
	}
	failing := aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
		return aws.Credentials{AccessKeyID: "half"}, errors.New("canary")
	})
	c, err := from.As("", failing).Credentials.Retrieve(t.Context())
	if err != awsclient.ErrProvider || c.HasKeys() {
		t.Errorf("P4: a provider that fails: %v, %v", c, err)
	}
}

func send(t *testing.T, h *awsclient.HTTP, url, body string) (string, error) {
	t.Helper()
	sent := io.NopCloser(strings.NewReader(body))
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, url, sent)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = int64(len(body))
	resp, err := h.Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	got, err := io.ReadAll(resp.Body)
	return string(got), err
}

func TestAnAnswerIsCutOffAtItsBound(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	defer server.Close()
	h := awsclient.NewHTTP(awsclient.Limits{Body: 5})
	for _, row := range []struct{ sent, want string }{{"1234", "1234"}, {"12345", "12345"}, {"123456", "12345"}} {
		if got, err := send(t, h, server.URL, row.sent); got != row.want || err != nil {
			t.Errorf("%s comes back as %q, %v", row.sent, got, err)
		}
	}
}

func TestAnAnswerThatDoesNotBegin(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		<-r.Context().Done()
	}))
	defer server.Close()
	_, err := send(t, awsclient.NewHTTP(awsclient.Limits{Answer: 20 * time.Millisecond, Body: 1}), server.URL, "x")
	var timeout net.Error
	if !errors.As(err, &timeout) || !timeout.Timeout() {
		t.Errorf("error %v, want a timeout", err)
	}
}

// closer fails whoever reads it after its Close, as the SDK's body does.
type closer struct {
	io.Reader
	closed bool
}

func (c *closer) Close() error { c.closed = true; return nil }

func (c *closer) Read(p []byte) (int, error) {
	if c.closed {
		return 0, errors.New("read after close")
	}
	return c.Reader.Read(p)
}

// A server may answer before it has read all. A signed request's body, closed
// then, must not break the connection that the answer comes on.
func TestARequestsBodyIsClosedWhileItIsSent(t *testing.T) {
	t.Parallel()
	answered := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c := http.NewResponseController(w)
		c.EnableFullDuplex()
		io.WriteString(w, "begin ")
		c.Flush()
		<-answered
		n, err := io.Copy(io.Discard, r.Body)
		if n != 8<<20 || err != nil {
			t.Errorf("%d bytes arrive, %v", n, err)
		}
		io.WriteString(w, "end")
	}))
	defer server.Close()
	body := &closer{Reader: strings.NewReader(strings.Repeat("x", 8<<20))}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, server.URL, body)
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 8 << 20
	resp, err := awsclient.NewHTTP(awsclient.Limits{Body: 100}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body.Close()
	close(answered)
	if got, err := io.ReadAll(resp.Body); string(got) != "begin end" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
}

func TestARequestWithoutABody(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "ok") }))
	defer server.Close()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := awsclient.NewHTTP(awsclient.Limits{Body: 100}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
}

func TestOneConnectionServesManyRequests(t *testing.T) {
	t.Parallel()
	var opened atomic.Int64
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) }))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	h := awsclient.NewHTTP(awsclient.Limits{Body: 5})
	for range 5 {
		if _, err := send(t, h, server.URL, "12345"); err != nil {
			t.Error(err)
		}
	}
	if opened.Load() != 1 {
		t.Errorf("%d connections", opened.Load())
	}
}

// A server that hands its connection over would not be held to any deadline: it
// is left at once.
func TestSwitchingProtocols(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
		io.Copy(io.Discard, conn)
		close(closed)
	}))
	t.Cleanup(server.Close)
	req, err := http.NewRequest("GET", server.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := awsclient.NewHTTP(awsclient.Limits{Body: 100}).Do(req)
	if err == nil {
		t.Errorf("status %d is an answer", resp.StatusCode)
		resp.Body.Close()
	}
	<-closed
}

// All requests go to one host, so what net/http allows a host is too few.
func TestAsManyConnectionsAreKeptAsWereNeeded(t *testing.T) {
	t.Parallel()
	const many = 20
	var opened atomic.Int64
	var arrived sync.WaitGroup
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		arrived.Done()
		arrived.Wait()
		io.Copy(w, r.Body)
	}))
	server.Config.ConnState = func(_ net.Conn, state http.ConnState) {
		if state == http.StateNew {
			opened.Add(1)
		}
	}
	server.Start()
	defer server.Close()
	h := awsclient.NewHTTP(awsclient.Limits{Body: 5})
	for range 2 {
		arrived.Add(many)
		var all sync.WaitGroup
		for range many {
			all.Go(func() {
				if _, err := send(t, h, server.URL, "12345"); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
	}
	if opened.Load() != many {
		t.Errorf("%d connections for %d requests at once", opened.Load(), many)
	}
}
