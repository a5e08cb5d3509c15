// Package auth answers one question: who is calling, and from where.
//
// A request carries a credential in its headers (Credential reads it). A
// Verifier asks the Source that owns the credential's form whose it is, and
// gets a Caller: the verified identity that every handler is given. The rest of
// the package is rules about callers and addresses, pure functions all of them.
//
// On AWS the authorizer Lambda runs a Verifier and hands the Caller to the
// functions in API Gateway's context; on one machine the same Verifier runs
// before the same handlers.
//
// Everything here fails closed. A refusal is a Reason, which is logged and
// never sent: a caller learns that the credential was refused, not why. A
// store that can't be asked is ErrUnavailable: not an allow, and not a claim
// that the credential is wrong either.
package auth

import (
	"context"
	"errors"
	"slices"
	"time"

	"postern/shared/route"
	"postern/shared/secret"
)

// Kind says what sort of credential a caller showed.
type Kind string

const (
	Root      Kind = "root"   // the deployment's token
	AdminKey  Kind = "admin"  // ADMIN_API_KEY
	Client    Kind = "client" // one of VALID_API_KEYS
	IssuedKey Kind = "key"    // an issued key
	Anonymous Kind = "anonymous"
)

// Caller is who a request is from, verified. Its zero value holds no scope.
type Caller struct {
	ID           string // "root", "admin", "client-1a2b3c4d", a key's id, "anonymous"
	Kind         Kind
	Name         string        // for people; may be empty
	Scopes       []route.Scope // what it holds
	Agents       []string      // the agents it may use; nil: all
	RateLimit    *int          // requests an hour; nil: the default; 0: none
	TokensPerDay *int          // nil: no budget
	ExpiresAt    time.Time     // zero: never
	Addresses    Addresses     // where it may call from, beside the rule for all; known where it is verified, and not beyond
}

// Holds reports whether c may use routes of scope s.
func (c Caller) Holds(s route.Scope) bool {
	switch s {
	case route.Public:
		return true
	case route.Any:
		return c.ID != ""
	}
	return slices.Contains(c.Scopes, s)
}

// MayUse reports whether c may use the agent of that name.
func (c Caller) MayUse(agent string) bool {
	return c.ID != "" && (c.Agents == nil || slices.Contains(c.Agents, agent))
}

// HourlyLimit is how many requests c may make in an hour, where callers without
// a limit of their own have fallback; 0 is no limit.
func (c Caller) HourlyLimit(fallback int) int {
	if c.RateLimit != nil {
		return *c.RateLimit
	}
	return fallback
}

// RootCaller is the holder of the root token. It holds every scope.
func RootCaller() Caller { return Caller{ID: "root", Kind: Root, Scopes: everyScope} }

// AdminCaller is the holder of ADMIN_API_KEY. It holds every scope.
func AdminCaller() Caller { return Caller{ID: "admin", Kind: AdminKey, Scopes: everyScope} }

// ClientCaller is the holder of one of VALID_API_KEYS, told apart by its
// digest and not by its place in the list, which may be edited.
func ClientCaller(d secret.Digest) Caller {
	return Caller{ID: "client-" + d.Label(), Kind: Client, Scopes: userScopes}
}

// AnonymousCaller is everybody where authentication is disabled.
func AnonymousCaller() Caller {
	return Caller{ID: "anonymous", Kind: Anonymous, Scopes: userScopes}
}

// The scopes of configured callers, which share them; nobody writes into them.
var (
	everyScope = []route.Scope{route.AgentsRead, route.Chat, route.Admin}
	userScopes = []route.Scope{route.AgentsRead, route.Chat}
)

// Reason is why a credential was refused. It is an error, for errors.As; its
// text goes to the log and never to the caller.
type Reason string

const (
	NoCredential Reason = "no_credential"
	BadScheme    Reason = "bad_scheme" // Authorization is not "Bearer <token>"
	Conflict     Reason = "conflict"   // a repeated header, or two different tokens
	Malformed    Reason = "malformed"  // empty, too long, or bytes no token has
	Unknown      Reason = "unknown"
	Expired      Reason = "expired"
	Disabled     Reason = "disabled"
	Revoked      Reason = "revoked"
)

func (r Reason) Error() string { return "credential refused: " + string(r) }

// ErrUnavailable means that the place a well-formed credential would be found
// in can't be asked. Sources wrap it with what happened, for the log.
var ErrUnavailable = errors.New("credential store unavailable")

// ErrAddress means that the caller is known and may not call from where it is.
var ErrAddress = errors.New("address not allowed")

// Source knows one class of credentials.
type Source interface {
	// Owns reports, from the token's form alone, whether this source is the one
	// that answers for it.
	Owns(token string) bool

	// Verify reports whose token it is: a Reason if it is nobody's, an error
	// that wraps ErrUnavailable if that can't be known. The token is well-formed
	// and owned.
	Verify(ctx context.Context, token string) (Caller, error)
}

// Verifier turns a request's headers into its caller.
type Verifier struct{ sources []Source }

// NewVerifier returns a Verifier that asks the first of sources that owns a
// token, and no other. With no source it refuses everybody.
func NewVerifier(sources ...Source) *Verifier { return &Verifier{sources} }

// Verify reads the credential from the values of the two headers and reports
// whose it is: a Reason or an error that wraps ErrUnavailable otherwise.
func (v *Verifier) Verify(ctx context.Context, authorization, apiKey []string) (Caller, error) {
	token, err := Credential(authorization, apiKey)
	if err != nil {
		return Caller{}, err
	}
	for _, s := range v.sources {
		if s.Owns(token) {
			return s.Verify(ctx, token)
		}
	}
	return Caller{}, Unknown
}
