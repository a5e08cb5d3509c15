package jobs

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"
)

// What a receiver may make us wait for and read.
const (
	tryTime         = 10 * time.Second // for all of a try: name, connection, TLS, request, answer
	maxAnswerHeader = 16 << 10
	maxAnswerBody   = 4 << 10
)

// Courier delivers callbacks. Its zero value is ready. It is safe for concurrent
// use.
//
// Whoever may submit a job chooses where we connect to, and the network we stand
// in trusts us more than them. So each address is checked at the last moment,
// when its name has been resolved and the socket is about to connect: a name that
// meant something else before (DNS rebinding) gains nothing by it. Each try
// connects anew, for a connection that was kept would not be checked. Redirects
// are failures. No proxy of the environment is used: the check would see the
// proxy's address, and the proxy would go anywhere (I13).
type Courier struct {
	// Permit says which addresses may be connected to. nil: Public. Tests, which
	// have loopback alone, set it.
	Permit   func(netip.Addr) bool
	Resolver *net.Resolver  // nil: the system's
	Roots    *x509.CertPool // that certificates are signed by; nil: the system's
}

// Send posts body, which is JSON, to cb until it is answered with a 2xx: at once,
// and again after 2 s and after 8 s. Only an address that isn't permitted is not
// tried again. A try takes 10 s at most, and ctx ends everything at once; then
// the error is that of ctx.
//
// delivery names the delivery in X-Postern-Delivery, the same in all tries, by
// which a receiver knows a second one. header goes along. A body is signed by a
// callback's secret in X-Postern-Signature, and for OmniDev's receivers in
// X-Workflow-Signature too: "sha256=" and the hexadecimal HMAC-SHA256.
//
// Of an answer its status alone is used. The error says host and cause for the
// log: nothing of the path, the query, the secret or the receiver's own words.
func (c *Courier) Send(ctx context.Context, cb *Callback, delivery string, header http.Header, body []byte) error {
	u, err := parseURL(cb.url.Reveal())
	if err != nil {
		return fmt.Errorf("callback: its URL %w", err)
	}
	req := &http.Request{Method: http.MethodPost, URL: u, Header: headerOf(cb, delivery, header, body)}
	for _, pause := range []time.Duration{0, 2 * time.Second, 8 * time.Second} {
		if !wait(ctx, pause) {
			break
		}
		if err = c.try(ctx, req, body); err == nil {
			return nil
		}
		if _, refused := errors.AsType[refusal](err); refused {
			break
		}
	}
	if ctx.Err() != nil {
		return fmt.Errorf("callback to %s: %w", u.Host, ctx.Err())
	}
	return fmt.Errorf("callback to %s: %s", u.Host, causeOf(err))
}

// wait reports whether ctx has outlasted d.
func wait(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
	case <-time.After(d):
	}
	return ctx.Err() == nil
}

// headerOf is header and what is ours, which wins.
func headerOf(cb *Callback, delivery string, header http.Header, body []byte) http.Header {
	h := http.Header{}
	maps.Copy(h, header)
	h.Set("Content-Type", "application/json")
	h.Set("User-Agent", "postern")
	h.Set("X-Postern-Delivery", delivery)
	if !cb.secret.IsEmpty() {
		mac := hmac.New(sha256.New, []byte(cb.secret.Reveal()))
		mac.Write(body)
		signature := "sha256=" + hex.EncodeToString(mac.Sum(nil))
		h.Set("X-Postern-Signature", signature)
		h.Set("X-Workflow-Signature", signature)
	}
	return h
}

// status is an answer that is no success.
type status int

func (s status) Error() string { return fmt.Sprintf("it answered with status %d", int(s)) }

// try posts body once. It goes to the transport itself: an http.Client would add
// redirects and cookies, and quote the URL in its errors.
func (c *Courier) try(ctx context.Context, req *http.Request, body []byte) error {
	ctx, cancel := context.WithTimeout(ctx, tryTime)
	defer cancel()
	req = req.WithContext(ctx)
	req.Body, req.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))

	transport := c.transport()
	defer transport.CloseIdleConnections() // ends a dial too, which outlives its request's context
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return status(resp.StatusCode) // its body unread: that of a 101 ends with no context
	}
	io.CopyN(io.Discard, resp.Body, maxAnswerBody) // so that a receiver isn't cut off while it says "OK"
	return nil
}

// transport is for one try, in HTTP/1.1.
func (c *Courier) transport() *http.Transport {
	dialer := &net.Dialer{Resolver: c.Resolver, ControlContext: c.guard}
	return &http.Transport{
		Proxy:                  nil,
		DialContext:            dialer.DialContext,
		TLSClientConfig:        &tls.Config{RootCAs: c.Roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives:      true,
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxAnswerHeader,
	}
}

// refusal is the guard's.
type refusal struct{ address string }

func (r refusal) Error() string {
	return fmt.Sprintf("it is at %s, where no callback may go", r.address)
}

// guard is called for every address right before the socket connects to it.
func (c *Courier) guard(_ context.Context, network, address string, _ syscall.RawConn) error {
	permit := c.Permit
	if permit == nil {
		permit = Public
	}
	at, err := netip.ParseAddrPort(address)
	if err != nil || network != "tcp4" && network != "tcp6" || !permit(at.Addr()) {
		return refusal{address}
	}
	return nil
}

// causeOf says why a try failed. What is neither ours nor the system's is told
// by its kind: in its words there may be the receiver's.
func causeOf(err error) string {
	if r, ok := errors.AsType[refusal](err); ok {
		return r.Error()
	}
	if s, ok := errors.AsType[status](err); ok {
		return s.Error()
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %v", tryTime)
	}
	if _, ok := errors.AsType[x509.HostnameError](err); ok {
		return "its certificate is for another name"
	}
	if _, ok := errors.AsType[x509.UnknownAuthorityError](err); ok {
		return "its certificate is signed by nobody we know"
	}
	if _, ok := errors.AsType[*tls.CertificateVerificationError](err); ok {
		return "its certificate has expired, or is not valid for other reasons"
	}
	if e, ok := errors.AsType[*net.OpError](err); ok {
		return e.Error()
	}
	return "it does not speak TLS and HTTP as it should"
}
