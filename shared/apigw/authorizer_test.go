package apigw_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"postern/shared/api"
	"postern/shared/apigw"
	"postern/shared/auth"
	"postern/shared/route"
	"postern/shared/secret"
)

type authorizerEvent = events.APIGatewayCustomAuthorizerRequestTypeRequest

// canary is the root token here. No output may have it (P4).
const canary = "CANARY-root-token-4f1d22b8"

// vault is a secret store with one version.
type vault struct{ token string }

func (v vault) Read(_ context.Context, stage string) (secret.Version, error) {
	if stage != secret.Current {
		return secret.Version{}, secret.ErrNoVersion
	}
	return secret.Version{Value: secret.New(v.token), CreatedAt: noon().Add(-48 * time.Hour)}, nil
}

// downVault can't be read.
type downVault struct{}

func (downVault) Read(context.Context, string) (secret.Version, error) {
	return secret.Version{}, errors.New("dial tcp 10.1.2.3:443: SECRETTEXT")
}

// noon is the time at every authorizer here: a clock that is set back while a
// test runs would end what was read.
func noon() time.Time { return time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC) }

// deployed verifies the root token of a store.
func deployed(store secret.Store) *auth.Verifier {
	return auth.NewVerifier(auth.Deployed{Token: secret.NewRotating(secret.Config{Store: store, CacheFor: time.Minute, Now: noon})})
}

// issues verifies every token as that caller's.
type issues struct{ caller auth.Caller }

func (issues) Owns(string) bool                                      { return true }
func (s issues) Verify(context.Context, string) (auth.Caller, error) { return s.caller, nil }

// arriving is the event of testdata with headers "Name: value" added.
func arriving(t testing.TB, headers ...string) authorizerEvent {
	t.Helper()
	var event authorizerEvent
	readJSON(t, "authorizer.event.json", &event)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		event.Headers[name] = value
		event.MultiValueHeaders[name] = append(event.MultiValueHeaders[name], value)
	}
	return event
}

func addresses(t testing.TB, list string) auth.Addresses {
	t.Helper()
	set, err := auth.ParseAddresses(list)
	if err != nil {
		t.Fatal(err)
	}
	return set
}

// Events and answers: the golden has the policy or the error, and the log.
func TestAuthorizer(t *testing.T) {
	t.Parallel()
	singleValued := func(e *authorizerEvent) { e.MultiValueHeaders = nil }
	var all strings.Builder
	for _, row := range []struct {
		name      string
		headers   []string
		change    func(*authorizerEvent)
		store     secret.Store // nil: the canary's
		addresses string
		samLocal  bool
		outcome   string // "Allow", "Deny", or the error's text
	}{
		{name: "a bearer token", headers: []string{"Authorization: Bearer " + canary}, outcome: "Allow"},
		{name: "an API key, its header in odd case", headers: []string{"x-aPi-kEY: " + canary}, outcome: "Allow"},
		{name: "both", headers: []string{"authorization: bearer   " + canary, "X-API-Key: " + canary}, outcome: "Allow"},
		{name: "an event with single-valued headers only", headers: []string{"authorization: Bearer " + canary}, change: singleValued, outcome: "Allow"},
		{name: "no credential", outcome: "Unauthorized"},
		{name: "no headers at all", change: func(e *authorizerEvent) { e.Headers, e.MultiValueHeaders = nil, nil }, outcome: "Unauthorized"},
		{name: "a wrong token", headers: []string{"Authorization: Bearer " + canary + "x"}, outcome: "Unauthorized"},
		{name: "a wrong token in a single-valued header", headers: []string{"X-API-KEY: CANARY-wrong"}, change: singleValued, outcome: "Unauthorized"},
		{name: "a truncated token", headers: []string{"X-API-Key: " + canary[:len(canary)-1]}, outcome: "Unauthorized"},
		{name: "another scheme", headers: []string{"Authorization: Basic " + canary}, outcome: "Unauthorized"},
		{name: "no scheme (I4)", headers: []string{"Authorization: " + canary}, outcome: "Unauthorized"},
		{name: "two values that agree in one header", headers: []string{"X-API-Key: " + canary, "X-API-Key: " + canary}, outcome: "Unauthorized"},
		{name: "two cases of one header", headers: []string{"X-API-Key: " + canary, "x-api-key: " + canary}, outcome: "Unauthorized"},
		{name: "two tokens", headers: []string{"Authorization: Bearer " + canary, "X-API-Key: CANARY-other"}, outcome: "Unauthorized"},
		{name: "bytes that no token has (I3)", headers: []string{"X-API-Key: CANARY-é\x00"}, outcome: "Unauthorized"},
		{name: "a token in the query", change: func(e *authorizerEvent) {
			e.QueryStringParameters = map[string]string{"token": canary, "Authorization": "Bearer " + canary}
		}, outcome: "Unauthorized"},
		{name: "an address that is allowed", headers: []string{"X-API-Key: " + canary}, addresses: "203.0.113.0/24", outcome: "Allow"},
		{name: "an address mapped into IPv6", headers: []string{"X-API-Key: " + canary}, addresses: "203.0.113.0/24",
			change: func(e *authorizerEvent) { e.RequestContext.Identity.SourceIP = "::ffff:203.0.113.9" }, outcome: "Allow"},
		{name: "an address that isn't, and a forged one that is (P9)", headers: []string{"X-API-Key: " + canary, "X-Real-IP: 10.0.0.1"}, addresses: "10.0.0.1", outcome: "Deny"},
		{name: "no address where there is a rule", headers: []string{"X-API-Key: " + canary}, addresses: "10.0.0.1",
			change: func(e *authorizerEvent) { e.RequestContext.Identity.SourceIP = "" }, outcome: "Deny"},
		{name: "a wrong token from a wrong address: the credential comes first", headers: []string{"X-API-Key: CANARY-wrong"}, addresses: "10.0.0.1", outcome: "Unauthorized"},
		{name: "a store that is down (P1)", headers: []string{"X-API-Key: " + canary}, store: downVault{}, outcome: "credential store unavailable"},
		{name: "a store that is empty (P1)", headers: []string{"X-API-Key: " + canary}, store: vault{""}, outcome: "credential store unavailable"},
		{name: "no credential while the store is down", store: downVault{}, outcome: "Unauthorized"},
		{name: "no credential under sam local", samLocal: true, outcome: "Deny"},
		{name: "a wrong token under sam local", headers: []string{"X-API-Key: CANARY-wrong"}, samLocal: true, outcome: "Deny"},
		{name: "a right token under sam local", headers: []string{"X-API-Key: " + canary}, samLocal: true, outcome: "Allow"},
		{name: "a store that is down under sam local", headers: []string{"X-API-Key: " + canary}, store: downVault{}, samLocal: true, outcome: "credential store unavailable"},
	} {
		t.Run(row.name, func(t *testing.T) {
			if row.store == nil {
				row.store = vault{canary}
			}
			event := arriving(t, row.headers...)
			if row.change != nil {
				row.change(&event)
			}
			var book logbook
			a := &apigw.Authorizer{Verifier: deployed(row.store), Addresses: addresses(t, row.addresses), Log: book.logger(), DenyRefused: row.samLocal}
			got, err := a.Handle(context.Background(), event)

			text := ""
			if err != nil {
				text = "error: " + err.Error() + "\n"
				if err.Error() != row.outcome || !isZero(t, got) {
					t.Errorf("error %q with the response %+v, want %q and none", err, got, row.outcome)
				}
			} else {
				text = indented(t, got)
				if effect := got.PolicyDocument.Statement[0].Effect; effect != row.outcome {
					t.Errorf("effect %s, want %s", effect, row.outcome)
				}
				if row.outcome == "Deny" && got.Context != nil {
					t.Errorf("a Deny with the context %v", got.Context)
				}
			}
			if (row.outcome == "Allow") != (book.String() == "") {
				t.Errorf("the log of a request that is %s: %q", row.outcome, book.String())
			}
			text += regexp.MustCompile(`"time":"[^"]+",`).ReplaceAllString(book.String(), "")
			fmt.Fprintf(&all, "# %s\n%s\n", row.name, text)
			if strings.Contains(text+fmt.Sprint(got, err), "CANARY") {
				t.Errorf("P4: a token came out:\n%s", text)
			}
			if strings.Contains(fmt.Sprint(got, err), "SECRET") {
				t.Errorf("the store's text is in the error, which API Gateway logs: %v", err)
			}
		})
	}
	golden(t, "authorizer.golden", all.String())
}

func isZero(t *testing.T, r events.APIGatewayCustomAuthorizerResponse) bool {
	t.Helper()
	return indented(t, r) == indented(t, events.APIGatewayCustomAuthorizerResponse{})
}

// The policy covers every route of the stage and fits into an IAM Resource.
func TestPolicyResource(t *testing.T) {
	t.Parallel()
	const arn = "arn:aws:execute-api:us-east-1:123456789012:abcdef1234"
	for _, row := range []struct{ name, arn, resource string }{
		{"a route", arn + "/prod/GET/agents", arn + "/prod/*"},
		{"a deep path", arn + "/prod/GET/a/b/c/d", arn + "/prod/*"},
		{"the root path", arn + "/prod/GET/", arn + "/prod/*"},
		{"another stage", arn + "/test-invoke-stage/GET/agents", arn + "/test-invoke-stage/*"},
		{"a path of 8 KB", arn + "/prod/GET/" + strings.Repeat("x/", 4096), arn + "/prod/*"},
		{"a path with wildcards", arn + "/prod/GET/*/../?", arn + "/prod/*"},
		{"China", "arn:aws-cn:execute-api:cn-north-1:123456789012:abcdef1234/prod/POST/chat", "arn:aws-cn:execute-api:cn-north-1:123456789012:abcdef1234/prod/*"},
		{"no path", arn + "/prod", arn + "/prod/*"},
		{"no stage", arn, arn + "//*"},
		{"nothing", "", "//*"},
	} {
		for _, token := range []string{canary, "wrong"} {
			event := arriving(t, "X-API-Key: "+token)
			event.MethodArn = row.arn
			a := &apigw.Authorizer{Verifier: deployed(vault{canary}), Log: new(logbook).logger(), DenyRefused: true}
			got, err := a.Handle(context.Background(), event)
			if err != nil {
				t.Fatal(err)
			}
			statement := got.PolicyDocument.Statement
			if len(statement) != 1 || len(statement[0].Resource) != 1 || statement[0].Resource[0] != row.resource || len(row.resource) > 512 {
				t.Errorf("%s: %+v, want the resource %s alone", row.name, statement, row.resource)
			}
			if a := statement[0].Action; len(a) != 1 || a[0] != "execute-api:Invoke" || got.PolicyDocument.Version != "2012-10-17" {
				t.Errorf("%s: %+v", row.name, got.PolicyDocument)
			}
		}
	}
}

// Contract §2: 4 KB in all, and what doesn't fit is no caller with less.
func TestContextIsBounded(t *testing.T) {
	t.Parallel()
	overhead := len("kind") + len("key") + len("name")
	for size, fits := range map[int]bool{4096: true, 4097: false, 1 << 20: false} {
		var book logbook
		a := &apigw.Authorizer{Log: book.logger(), Verifier: auth.NewVerifier(issues{auth.Caller{
			ID: "abc", Kind: auth.IssuedKey, Name: strings.Repeat("x", size-overhead),
		}})}
		got, err := a.Handle(context.Background(), arriving(t, "X-API-Key: a"))
		switch {
		case fits && (err != nil || len(got.Context) != 2):
			t.Errorf("%d bytes: %v", size, err)
		case !fits && (err == nil || err.Error() != auth.ErrUnavailable.Error() || !isZero(t, got)):
			t.Errorf("%d bytes: error %v, response %+v, want a constant error alone", size, err, got)
		case !fits && !strings.Contains(book.String(), "at most 4096 are allowed"):
			t.Errorf("%d bytes: the log doesn't say why: %s", size, book.String())
		}
	}
}

// Contract §7: no network call and ≤ 5 µs a decision on a warm authorizer
// (BenchmarkDecision: about 2 µs). The allocations are a stand-in for time, which
// a test can't hold still: the policy and its context are 11 of them.
func TestDecisionIsCheap(t *testing.T) {
	a, event := warm(t)
	if n := testing.AllocsPerRun(1000, func() { a.Handle(context.Background(), event) }); n > 10 {
		t.Errorf("%v allocations a decision, want 10 at most", n)
	}
}

func BenchmarkDecision(b *testing.B) {
	a, event := warm(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Handle(context.Background(), event); err != nil {
			b.Fatal(err)
		}
	}
}

// warm is an authorizer that has read its token and can't read it again.
func warm(t testing.TB) (*apigw.Authorizer, authorizerEvent) {
	t.Helper()
	event := arriving(t, "Authorization: Bearer "+canary)
	a := &apigw.Authorizer{Verifier: deployed(&oneRead{vault: vault{canary}}), Log: new(logbook).logger()}
	if _, err := a.Handle(context.Background(), event); err != nil {
		t.Fatal(err)
	}
	return a, event
}

// oneRead fails from the second read on.
type oneRead struct {
	vault
	done bool
}

func (v *oneRead) Read(ctx context.Context, stage string) (secret.Version, error) {
	if v.done {
		return secret.Version{}, errors.New("read again")
	}
	v.done = true
	return v.vault.Read(ctx, stage)
}

// P6, P15: whatever the event, no panic, and an Allow for the right token alone.
func FuzzAuthorizerEvent(f *testing.F) {
	for _, headers := range [][]string{
		nil, {"Authorization: Bearer " + canary}, {"X-API-Key: " + canary}, {"x-api-key: " + canary, "X-Api-Key: a"},
		{"Authorization: Bearer a", "Authorization: Bearer " + canary}, {"Authorization: " + canary}, {"Authorization: Bearer \x00é"},
	} {
		seed, err := json.Marshal(arriving(f, headers...))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(seed)
	}
	f.Add([]byte(`{"headers":{"x-api-key":"` + canary + `"}}`))
	f.Add([]byte(`{"multiValueHeaders":{"x-api-key":null,"X-API-KEY":["` + canary + `"]},"methodArn":"////"}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var event authorizerEvent
		if json.Unmarshal(text, &event) != nil {
			return
		}
		var book logbook
		a := &apigw.Authorizer{Verifier: deployed(vault{canary}), Addresses: addresses(t, "203.0.113.0/24"), Log: book.logger()}
		got, err := a.Handle(context.Background(), event)
		if err != nil {
			if err.Error() != "Unauthorized" || !isZero(t, got) {
				t.Errorf("error %v with %+v", err, got)
			}
			return
		}
		statement := got.PolicyDocument.Statement[0]
		if !strings.HasSuffix(statement.Resource[0], "/*") || strings.Count(statement.Resource[0], "/") != 2 {
			t.Errorf("resource %q", statement.Resource)
		}
		if statement.Effect == "Allow" && (!sent(event, canary) || got.PrincipalID != "root" || !addresses(t, "203.0.113.0/24").Contain(addr(event.RequestContext.Identity.SourceIP))) {
			t.Errorf("allowed: %s", text)
		}
		if strings.Contains(book.String()+fmt.Sprint(got), canary) {
			t.Errorf("P4: the token came out")
		}
	})
}

// A caller's own address rule holds beside the rule for all, and both are of the
// gateway's word (P9).
func TestAuthorizerKnowsTheCallersAddresses(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ all, own, effect string }{
		{"", "203.0.113.0/24", "Allow"},
		{"203.0.113.9", "203.0.113.9", "Allow"},
		{"", "10.0.0.1", "Deny"},
		{"203.0.113.0/24", "10.0.0.1", "Deny"},
		{"10.0.0.1", "203.0.113.0/24", "Deny"},
	} {
		token := canary + "-restricted"
		caller := auth.Caller{ID: "key", Addresses: addresses(t, row.own)}
		a := &apigw.Authorizer{
			Verifier:  auth.NewVerifier(new(auth.Configured).Add(secret.DigestOf(token), caller)),
			Addresses: addresses(t, row.all),
			Log:       (&logbook{}).logger(),
		}
		event := arriving(t, "X-API-Key: "+token, "X-Real-IP: 10.0.0.1")
		event.RequestContext.Identity.SourceIP = "203.0.113.9"
		got, err := a.Handle(t.Context(), event)
		if err != nil {
			t.Fatal(err)
		}
		if effect := got.PolicyDocument.Statement[0].Effect; effect != row.effect {
			t.Errorf("all %q, own %q: %s, want %s", row.all, row.own, effect, row.effect)
		}
	}
}

// sent reports whether event has the token in a header that may carry it.
func sent(event authorizerEvent, token string) bool {
	check := func(name, value string) bool {
		name = strings.ToLower(name)
		return name == "x-api-key" && value == token ||
			name == "authorization" && strings.EqualFold(value[:min(len(value), 7)], "Bearer ") && strings.TrimLeft(value[7:], " ") == token
	}
	for name, value := range event.Headers {
		if check(name, value) {
			return true
		}
	}
	for name, values := range event.MultiValueHeaders {
		for _, value := range values {
			if check(name, value) {
				return true
			}
		}
	}
	return false
}

// roundTrip is c as a function sees it: through the authorizer, API Gateway and
// the event.
func roundTrip(t *testing.T, c auth.Caller, h api.Handler) reply {
	t.Helper()
	a := &apigw.Authorizer{Verifier: auth.NewVerifier(issues{c}), Log: new(logbook).logger()}
	policy, err := a.Handle(context.Background(), arriving(t, "X-API-Key: a"))
	if err != nil {
		t.Fatal(err)
	}
	context := policy.Context
	if context == nil {
		context = map[string]any{}
	}
	for key, value := range context {
		if _, ok := value.(string); !ok {
			t.Errorf("context %s is %T: API Gateway takes strings, numbers and booleans", key, value)
		}
	}
	context["principalId"], context["integrationLatency"] = policy.PrincipalID, 7
	text, err := json.Marshal(as(proxied("GET", "/whoami"), context))
	if err != nil {
		t.Fatal(err)
	}
	var event events.APIGatewayProxyRequest
	if err := json.Unmarshal(text, &event); err != nil {
		t.Fatal(err)
	}
	return both(t, functionWith(t, h, new(logbook)), event)
}

func allScopes() []route.Scope { return []route.Scope{route.AgentsRead, route.Chat, route.Admin} }
