package awsclient

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
)

const (
	// idleConnection is shorter than AWS keeps one open, and than most pauses in
	// which a Lambda is frozen.
	idleConnection = 45 * time.Second
	// silence is how long an HTTP/2 connection may say nothing before it is
	// probed: one that died in a frozen Lambda would hang till its caller gives up.
	silence = 15 * time.Second
	// connect is Limits.Connect's default; the SDK would take 30 s.
	connect = 5 * time.Second
)

// Limits bound what a service makes us wait for and hold in memory.
type Limits struct {
	Connect time.Duration // for TCP, for TLS, and for a probe; 0: 5 s
	Answer  time.Duration // from a request's end to its answer's begin; 0: the caller's context alone
	Body    int64         // of an answer, in bytes; what is beyond is cut off
}

// HTTP sends what the SDK has signed, and minds two things that it doesn't.
//
// The SDK closes a request's body as soon as the response begins. The transport
// may be about to look whether that body has ended, takes the closed one for a
// failed write and closes the connection, the answer with it. So the transport
// gets a body of its own; one that it can send anew where a connection turned
// out to be dead.
//
// The SDK reads answers of any size into memory. So they are cut off.
type HTTP struct {
	client *awshttp.BuildableClient
	body   int64
}

// NewHTTP returns an HTTP with connections of its own. It is safe for concurrent
// use.
func NewHTTP(limits Limits) *HTTP {
	patience := cmp.Or(limits.Connect, connect)
	client := awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) { d.Timeout = patience }).
		WithTransportOptions(func(t *http.Transport) {
			t.TLSHandshakeTimeout = patience
			t.ResponseHeaderTimeout = limits.Answer
			t.IdleConnTimeout = idleConnection
			t.MaxIdleConnsPerHost = t.MaxIdleConns // there is one host
			t.HTTP2 = &http.HTTP2Config{SendPingTimeout: silence, PingTimeout: patience}
		})
	return &HTTP{client, limits.Body}
}

// Do implements the HTTPClient of every service's Options.
func (h *HTTP) Do(signed *http.Request) (*http.Response, error) {
	req := signed.WithContext(signed.Context()) // a copy
	if signed.Body != nil {
		body, err := io.ReadAll(signed.Body)
		if err != nil {
			return nil, err
		}
		req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
		req.Body, _ = req.GetBody()
	}
	resp, err := h.client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode < http.StatusOK {
		// The "body" of 101 is the connection, which no deadline ends.
		resp.Body.Close()
		return nil, fmt.Errorf("status %d", resp.StatusCode)
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(resp.Body, h.body), resp.Body}
	return resp, nil
}
