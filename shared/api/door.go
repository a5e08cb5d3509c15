package api

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"

	"postern/shared/auth"
	"postern/shared/limit"
)

// Door is how requests reach the frame: through API Gateway (package apigw) or
// straight from the network (LocalDoor). It alone knows where the facts about a
// request come from.
type Door interface {
	// Arrival is what is known before anybody is asked: the id that we gave the
	// request, and the client's address, invalid if that can't be told.
	Arrival(r *http.Request) (requestID string, from netip.Addr)

	// Admit returns r's caller. Its error is an auth.Reason, wraps
	// auth.ErrAddress or auth.ErrUnavailable, or is an *Error.
	Admit(ctx context.Context, r *http.Request, from netip.Addr) (auth.Caller, error)
}

// LocalDoor is the door of one machine: the network's own facts, the verifier
// in this process, and a guard against floods of wrong tokens.
type LocalDoor struct {
	Verifier  *auth.Verifier
	Addresses auth.Addresses // callers from elsewhere are refused
	Proxies   auth.Proxies
	Flood     *limit.Flood

	ids requestIDs

	// Open admits whoever shows no credential as auth.AnonymousCaller. A
	// credential that is shown must be right even so.
	Open bool
	// OpenHosts is whether an open door answers to any Host. If not, Host must
	// be loopback, or a web page could reach a server on its reader's machine by
	// rebinding its own name to 127.0.0.1.
	OpenHosts bool
}

// Arrival implements Door.
func (d *LocalDoor) Arrival(r *http.Request) (string, netip.Addr) {
	peer, _ := netip.ParseAddrPort(r.RemoteAddr)
	return d.ids.next(), d.Proxies.Client(peer.Addr(), r.Header["X-Forwarded-For"], r.Header["X-Real-Ip"])
}

// Admit implements Door.
func (d *LocalDoor) Admit(ctx context.Context, r *http.Request, from netip.Addr) (auth.Caller, error) {
	if d.Open && !d.OpenHosts && !loopback(r.Host) {
		return auth.Caller{}, &Error{Code: HostDenied}
	}
	caller, err := d.Verifier.Verify(ctx, r.Header["Authorization"], r.Header["X-Api-Key"])
	if d.Open && errors.Is(err, auth.NoCredential) {
		caller, err = auth.AnonymousCaller(), nil
	}
	var reason auth.Reason
	switch {
	case errors.As(err, &reason):
		if wait := d.Flood.Failed(from); wait > 0 {
			return auth.Caller{}, &Error{Code: RateLimited, RetryAfter: wait, HangUp: true, Err: err,
				Detail: "Too many failed attempts from this address. A valid token still works."}
		}
		return auth.Caller{}, err
	case err != nil:
		return auth.Caller{}, err
	case !d.Addresses.Contain(from) || !caller.Addresses.Contain(from):
		return auth.Caller{}, auth.ErrAddress
	}
	return caller, nil
}

// requestIDs makes ids that no two requests share: 128 random bits, once, and a
// count. An id is no secret, and drawing each would cost more than checking a
// token.
type requestIDs struct {
	once   sync.Once
	prefix string
	count  atomic.Uint64
}

func (ids *requestIDs) next() string {
	ids.once.Do(func() { ids.prefix = rand.Text() + "-" })
	var buffer [48]byte
	return string(strconv.AppendUint(append(buffer[:0], ids.prefix...), ids.count.Add(1), 10))
}

// loopback reports whether a Host header names this machine to itself.
func loopback(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if strings.EqualFold(strings.TrimSuffix(host, "."), "localhost") {
		return true
	}
	a, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && a.Unmap().IsLoopback()
}
