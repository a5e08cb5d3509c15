package apigw

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"postern/shared/api"
	"postern/shared/auth"
	"postern/shared/route"
)

// errUnauthorized is the one error that API Gateway answers with 401; its text
// must be exactly this
// (docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-lambda-authorizer-output.html).
var errUnauthorized = errors.New("Unauthorized")

// Authorizer is the Lambda authorizer. It says who calls and from where, and
// leaves what they may do to the functions:
//
//	a valid credential          Allow, for every route of the stage, with the caller
//	                            as context
//	a missing or wrong one      the error "Unauthorized"   → 401
//	an address not allowed      Deny                       → 403
//	a store that can't be asked any other error            → 503
type Authorizer struct {
	Verifier  *auth.Verifier
	Addresses auth.Addresses
	Log       *slog.Logger

	// DenyRefused answers a wrong credential with a Deny policy too: `sam local`
	// turns an authorizer's error into 502.
	DenyRefused bool
}

// Handle is what aws-lambda-go starts.
func (a *Authorizer) Handle(ctx context.Context, event events.APIGatewayCustomAuthorizerRequestTypeRequest) (events.APIGatewayCustomAuthorizerResponse, error) {
	from, _ := netip.ParseAddr(event.RequestContext.Identity.SourceIP)
	from = from.Unmap()
	caller, err := a.Verifier.Verify(ctx, values(event, "Authorization"), values(event, "X-API-Key"))
	if err == nil && !a.Addresses.Contain(from) {
		err = auth.ErrAddress
	}
	if err == nil {
		policy := policyFor("Allow", caller.ID, event.MethodArn)
		if policy.Context, err = contextOf(caller); err == nil {
			return policy, nil
		}
	}
	a.logRefusal(ctx, event, from, err)
	var reason auth.Reason
	refused := errors.As(err, &reason)
	switch {
	case errors.Is(err, auth.ErrAddress), refused && a.DenyRefused:
		return policyFor("Deny", "refused", event.MethodArn), nil
	case refused:
		return events.APIGatewayCustomAuthorizerResponse{}, errUnauthorized
	default:
		// Its text goes into API Gateway's log, so it is a constant one.
		return events.APIGatewayCustomAuthorizerResponse{}, auth.ErrUnavailable
	}
}

// values are all values of a header, whose name may be written in any case, and
// even in several.
func values(event events.APIGatewayCustomAuthorizerRequestTypeRequest, name string) []string {
	var found []string
	for k, v := range event.MultiValueHeaders {
		if strings.EqualFold(k, name) {
			if found == nil {
				found = v
			} else {
				found = append(found[:len(found):len(found)], v...)
			}
		}
	}
	if event.MultiValueHeaders == nil {
		for k, v := range event.Headers {
			if strings.EqualFold(k, name) {
				found = append(found, v)
			}
		}
	}
	return found
}

// invoke is the one action there is. Nobody writes into it.
var invoke = []string{"execute-api:Invoke"}

// policyFor covers every route of the stage: a policy that is cached, or whose
// Resource is one request's own ARN, would answer for the wrong ones, and the
// ARN of a long path exceeds the 512 characters a Resource may have.
func policyFor(effect, principal, methodARN string) events.APIGatewayCustomAuthorizerResponse {
	return events.APIGatewayCustomAuthorizerResponse{
		PrincipalID: principal,
		PolicyDocument: events.APIGatewayCustomAuthorizerPolicy{
			Version: "2012-10-17",
			Statement: []events.IAMPolicyStatement{{
				Action:   invoke,
				Effect:   effect,
				Resource: []string{stageARN(methodARN)},
			}},
		},
	}
}

// stageARN turns arn:…:api/stage/METHOD/path into arn:…:api/stage/*.
func stageARN(methodARN string) string {
	api, rest, _ := strings.Cut(methodARN, "/")
	stage, _, _ := strings.Cut(rest, "/")
	return api + "/" + stage + "/*"
}

// logRefusal writes what the functions' event line has, for a request that
// never reaches one.
func (a *Authorizer) logRefusal(ctx context.Context, event events.APIGatewayCustomAuthorizerRequestTypeRequest, from netip.Addr, err error) {
	attrs := []slog.Attr{
		slog.String("request_id", event.RequestContext.RequestID),
		slog.String("decision", "deny"),
		slog.String("ip", api.AddressText(from)),
	}
	var reason auth.Reason
	level, message := slog.LevelError, "authentication unavailable"
	switch {
	case errors.As(err, &reason):
		level, message = slog.LevelWarn, api.RefusalMessage(from)
		attrs = append(attrs, slog.String("reason", string(reason)))
		if a.Log.Enabled(ctx, slog.LevelDebug) {
			attrs = append(attrs, slog.Any("credential_headers", credentialHeaders(event)))
		}
	case errors.Is(err, auth.ErrAddress):
		level, message = slog.LevelWarn, "request refused"
		attrs = append(attrs, slog.String("reason", "address"))
	default:
		attrs = append(attrs, slog.String("error", err.Error()))
	}
	a.Log.LogAttrs(ctx, level, message, attrs...)
}

func credentialHeaders(event events.APIGatewayCustomAuthorizerRequestTypeRequest) []string {
	h := http.Header{}
	for name := range event.MultiValueHeaders {
		h.Set(name, "")
	}
	for name := range event.Headers {
		h.Set(name, "")
	}
	return api.CredentialHeaders(h)
}

// maxContext bounds the context's keys and values together, in bytes.
const maxContext = 4 << 10

// The keys of the authorizer's context. With principalId, the caller's id, they
// are the interface for somebody's own authorizer: strings all of them, lists as
// JSON arrays, and an absent key is an empty value.
const (
	keyKind         = "kind"
	keyName         = "name"
	keyScopes       = "scopes"
	keyAgents       = "agents"
	keyRateLimit    = "rate_limit"
	keyTokensPerDay = "tokens_per_day"
	keyExpiresAt    = "expires_at"
)

// contextOf writes c for callerOf to read.
func contextOf(c auth.Caller) (map[string]any, error) {
	m := make(map[string]any, 4)
	size := 0
	put := func(key, value string) {
		m[key] = value
		size += len(key) + len(value)
	}
	put(keyKind, string(c.Kind))
	if c.Name != "" {
		put(keyName, c.Name)
	}
	if c.Scopes != nil {
		put(keyScopes, scopeList(c.Scopes))
	}
	if c.Agents != nil {
		list, _ := json.Marshal(c.Agents) // strings always marshal
		put(keyAgents, string(list))
	}
	if c.RateLimit != nil {
		put(keyRateLimit, strconv.Itoa(*c.RateLimit))
	}
	if c.TokensPerDay != nil {
		put(keyTokensPerDay, strconv.Itoa(*c.TokensPerDay))
	}
	if !c.ExpiresAt.IsZero() {
		put(keyExpiresAt, c.ExpiresAt.UTC().Format(time.RFC3339))
	}
	if size > maxContext {
		return nil, fmt.Errorf("the context of caller %s has %d bytes, at most %d are allowed", c.ID, size, maxContext)
	}
	return m, nil
}

// scopeList is scopes as JSON. They are our own words, so nothing in them wants
// escaping, and the authorizer's warm path spares the marshaller.
func scopeList(scopes []route.Scope) string {
	if len(scopes) == 0 {
		return "[]"
	}
	list := make([]byte, 0, 64)
	for _, s := range scopes {
		list = append(append(append(list, `,"`...), s...), '"')
	}
	list[0] = '['
	return string(append(list, ']'))
}

// callerOf reads the authorizer's context. No principal, or a value that is not
// what contextOf writes, is no caller: a context that can't be understood must
// not turn into a caller with fewer bounds than it was given.
func callerOf(context map[string]any) (auth.Caller, error) {
	id, _ := context["principalId"].(string)
	if id == "" {
		return auth.Caller{}, auth.NoCredential
	}
	r := contextReader{context: context}
	c := auth.Caller{
		ID:           id,
		Kind:         auth.Kind(r.text(keyKind)),
		Name:         r.text(keyName),
		RateLimit:    r.number(keyRateLimit),
		TokensPerDay: r.number(keyTokensPerDay),
		ExpiresAt:    r.time(keyExpiresAt),
	}
	for _, s := range r.list(keyScopes) {
		c.Scopes = append(c.Scopes, route.Scope(s))
	}
	c.Agents = r.list(keyAgents)
	if r.err != nil {
		return auth.Caller{}, fmt.Errorf("authorizer context of %s: %w", id, r.err)
	}
	return c, nil
}

// contextReader reads typed values and keeps the first fault.
type contextReader struct {
	context map[string]any
	err     error
}

func (r *contextReader) text(key string) string {
	v, there := r.context[key]
	if !there || v == nil {
		return ""
	}
	s, ok := v.(string)
	if !ok {
		r.fault(key, errors.New("is not a string"))
	}
	return s
}

func (r *contextReader) number(key string) *int {
	s := r.text(key)
	if s == "" {
		return nil
	}
	n, err := strconv.Atoi(s)
	if err == nil && n < 0 {
		err = errors.New("is negative")
	}
	r.fault(key, err)
	return &n
}

func (r *contextReader) time(key string) time.Time {
	s := r.text(key)
	if s == "" {
		return time.Time{}
	}
	t, err := time.Parse(time.RFC3339, s)
	r.fault(key, err)
	return t
}

func (r *contextReader) list(key string) []string {
	s := r.text(key)
	if s == "" {
		return nil
	}
	list := []string{}
	r.fault(key, json.Unmarshal([]byte(s), &list))
	if list == nil { // "null" names nothing, which is not the same as everything
		list = []string{}
	}
	return list
}

func (r *contextReader) fault(key string, err error) {
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("%s: %w", key, err)
	}
}
