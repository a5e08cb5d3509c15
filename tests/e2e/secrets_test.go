package e2e_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"net/http"
	"strings"
	"testing"

	"postern/shared/check"
	"postern/tests/secretsfake"
)

// leaked says what of the canary stands in text, in any of the ways that it
// could be written. Nothing: "".
func leaked(text string) string {
	sum := sha256.Sum256([]byte(token))
	for what, needle := range map[string]string{
		"the token":                  token,
		"the token's first half":     token[:len(token)/2],
		"the token's digest":         hex.EncodeToString(sum[:]),
		"the token's digest, base64": base64.StdEncoding.EncodeToString(sum[:]),
		"the token, base64":          base64.StdEncoding.EncodeToString([]byte(token)),
	} {
		if strings.Contains(strings.ToLower(text), strings.ToLower(needle)) {
			return what
		}
	}
	return ""
}

func bearer(token string) http.Header {
	return http.Header{"Authorization": {"Bearer " + token}}
}

var unavailable = check.Want{Status: 503, Error: "Authentication unavailable", Header: map[string]string{"Retry-After": check.Any}}

// TestP16ARotationNeedsNoDeployment takes warm Lambdas through a rotation.
func TestP16ARotationNeedsNoDeployment(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, nil)
	const next = "the-next-token-AAAAAAAAAAAAAAAAAAAAAAAAAAA"
	whoami := func(name, token string, want check.Want) {
		t.Helper()
		expect(t, d.url, check.Case{Name: name, Path: "/whoami", Header: bearer(token), Want: want})
	}
	admitted := check.Want{Status: 200, JSON: map[string]any{"id": "root"}}
	d.secret.Put(next)
	whoami("the new token, first read after the rotation", next, admitted)
	whoami("the old token, inside the grace", token, admitted)
	calls := d.store.Total()
	whoami("warm: the new token again", next, admitted)
	whoami("warm: the old token again", token, admitted)
	if got := d.store.Total(); got != calls {
		t.Errorf("warm requests made %d calls to Secrets Manager", got-calls)
	}
	d.secret.Put("a-third-token-CCCCCCCCCCCCCCCCCCCCCCCCCCCCC")
	if text := leaked(d.logs()); text != "" {
		t.Errorf("P4: the log has %s in it", text)
	}
}

// TestP16NoGraceNoPreviousToken is what an operator sets after a leak.
func TestP16NoGraceNoPreviousToken(t *testing.T) {
	t.Parallel()
	d := deploy(t, map[string]string{"TokenGrace": "0"}, nil)
	d.secret.Put("the-next-token-AAAAAAAAAAAAAAAAAAAAAAAAAAA")
	expect(t, d.url, check.Case{Name: "the previous token is refused", Path: "/whoami", Header: bearer(token),
		Want: check.Want{Status: 401, Error: "Invalid API key"}})
	if n := d.store.Calls(secretsfake.Previous); n != 0 {
		t.Errorf("%d calls for AWSPREVIOUS, want none", n)
	}
}

// TestP1AStoreThatFailsDenies breaks Secrets Manager in every way, cold.
func TestP1AStoreThatFailsDenies(t *testing.T) {
	t.Parallel()
	hang, release := secretsfake.Hang()
	t.Cleanup(release) // once the parallel subtests are through
	for name, breakIt := range map[string]func(*deployment){
		"an error":         func(d *deployment) { d.store.Inject(secretsfake.Fail(500, "InternalServiceError")) },
		"access denied":    func(d *deployment) { d.store.Inject(secretsfake.Fail(400, "AccessDeniedException")) },
		"throttling":       func(d *deployment) { d.store.Inject(secretsfake.Fail(400, "ThrottlingException")) },
		"garbage":          func(d *deployment) { d.store.Inject(secretsfake.Garbage("<html>")) },
		"an empty reply":   func(d *deployment) { d.store.Inject(secretsfake.Garbage("{}")) },
		"a cut connection": func(d *deployment) { d.store.Inject(secretsfake.Drop()) },
		"a hang":           func(d *deployment) { d.store.Inject(hang) },
		"a deleted secret": func(d *deployment) { d.secret.Delete() },
		"an empty secret":  func(d *deployment) { d.secret.Put("") },
		"a blank secret":   func(d *deployment) { d.secret.Put(" \n") },
		"key/value JSON":   func(d *deployment) { d.secret.Put(`{"token":"` + token + `"}`) },
		"a binary secret":  func(d *deployment) { d.secret.PutBinary([]byte(token)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := deploy(t, nil, nil)
			breakIt(d)
			expect(t, d.url, check.Case{Name: "a well-formed token is neither allowed nor called wrong", Path: "/whoami", Header: bearer(token), Want: unavailable})
			expect(t, d.url, check.Case{Name: "no credential is 401 even so", Path: "/whoami", Want: check.Want{Status: 401, Error: "Invalid API key"}})
			expect(t, d.url, check.Case{Name: "a malformed one too", Path: "/whoami", Header: bearer("a b"), Want: check.Want{Status: 401, Error: "Invalid API key"}})
			expect(t, d.url, check.Case{Name: "I22: health goes on", Path: "/health", Want: check.Want{Status: 200}})
			if text := leaked(d.logs()); text != "" {
				t.Errorf("P4: the log has %s in it", text)
			}
		})
	}
}

// TestP6NothingConfiguredNobodyEnters starts the authorizer with nothing at all.
func TestP6NothingConfiguredNobodyEnters(t *testing.T) {
	t.Parallel()
	d := deploy(t, nil, map[string]string{"TOKEN_SECRET_ARN": ""})
	expect(t, d.url, check.Case{Name: "a token", Path: "/agents", Header: bearer(token), Want: unavailable})
	expect(t, d.url, check.Case{Name: "the empty token", Path: "/agents", Header: bearer(""), Want: unavailable})
	expect(t, d.url, check.Case{Name: "health", Path: "/health", Want: check.Want{Status: 200}})
}

// TestTheTokenOfSAMLocalIsForSAMLocal: API_TOKEN opens nothing on AWS.
func TestTheTokenOfSAMLocalIsForSAMLocal(t *testing.T) {
	t.Parallel()
	const local = "a-token-of-env.json-BBBBBBBBBBBBBBBBBBBBBBB"
	d := deploy(t, nil, map[string]string{"API_TOKEN": local})
	expect(t, d.url, check.Case{Name: "on AWS it is no token", Path: "/agents", Header: bearer(local), Want: check.Want{Status: 401, Error: "Invalid API key"}})
	expect(t, d.url, check.Case{Name: "and the secret is", Path: "/agents", Header: bearer(token), Want: check.Want{Status: 200}})
}
