package main

import (
	"context"
	"hash/crc32"
	"math/rand/v2"
	"strings"
	"time"

	"postern/shared/auth"
	"postern/shared/keys"
	"postern/shared/secret"
	"postern/shared/table/memory"
	"postern/tests/bench/issued"
)

// comparison is two kinds of tokens that take the same time.
type comparison struct {
	name           string
	setUp          func(context.Context) (subject, error)
	mayDiffer      float64 // by so many nanoseconds; 0 for all tokens that are refused
	forInformation bool    // a difference is no leak
}

// subject is a verifier and what it is asked: tokens of two kinds, many of each
// so that no single one's place in memory tells them apart, with one answer.
type subject struct {
	verifier *auth.Verifier
	tokens   [2][]string
	want     error
}

// pool is how many tokens there are of a kind, ids among them. A keys.Source
// remembers a thousand ids that there are not.
const pool = 400

// elsewhere is what two callers may differ by who are let in, since the one is
// read from another place in memory than the other. To stop at the first of 100
// candidates would be a hundred times as much.
const elsewhere = 20 // ns

// candidates is how many tokens are configured.
const candidates = 100

func comparisons() []comparison {
	return []comparison{
		{name: "root token of a machine: first byte wrong, last byte wrong", setUp: configured(wrongAt(0), wrongAt(42))},
		{name: "root token on AWS: first byte wrong, last byte wrong", setUp: rotating(wrongAt(0), wrongAt(42))},
		{name: "root token of a machine: last byte wrong, nothing right", setUp: configured(wrongAt(42), unrelated)},
		{name: "root token of a machine: the digest's first byte right, wrong", setUp: configured(digestLike(true), digestLike(false))},
		{name: "100 configured tokens: like the first but a byte, like the last but one", setUp: configuredMany(wrongAt(42), auth.Unknown)},
		{name: "100 configured tokens: the first itself, the last itself", setUp: configuredMany(whole, nil), mayDiffer: elsewhere},
		{name: "issued key, cached: a key's id and a wrong secret, an id of no key", setUp: issuedKeys(time.Now, otherSecret, noKey)},
		{name: "issued key, cached: 42 of the secret's 43 characters right, none", setUp: issuedKeys(time.Now, nearlyTheSecret, otherSecret)},
		{name: "issued key, never seen: a key's id and a wrong secret, an id of no key", setUp: issuedKeys(leaping(), otherSecret, noKey), forInformation: true},
	}
}

// guess makes a token that is like right.
type guess func(right string) string

func whole(right string) string { return right }

func unrelated(string) string { return secret.Generate().Reveal() }

func wrongAt(place int) guess {
	return func(right string) string { return right[:place] + other(right[place]) + right[place+1:] }
}

// digestLike makes a token of whose digest the first byte is the right one's, or
// is not. Nobody can make one who doesn't know the digest, and so a comparison of
// digests that stops early tells little; but none should.
func digestLike(is bool) guess {
	return func(right string) string {
		want := secret.DigestOf(right).Reveal()[:2]
		for {
			token := unrelated(right)
			if (secret.DigestOf(token).Reveal()[:2] == want) == is {
				return token
			}
		}
	}
}

const base62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// other is a letter or digit that is not c.
func other(c byte) string {
	rest := strings.Replace(base62, string(c), "", 1)
	return string(rest[rand.IntN(len(rest))])
}

// configured is the verifier of `postern run`, which has a root token and two
// more, asked for what is like the root token.
func configured(a, b guess) func(context.Context) (subject, error) {
	return func(context.Context) (subject, error) {
		root := secret.Generate().Reveal()
		source := new(auth.Configured).Add(secret.DigestOf(root), auth.RootCaller())
		for range 2 {
			d := secret.DigestOf(secret.Generate().Reveal())
			source.Add(d, auth.ClientCaller(d))
		}
		s := subject{verifier: auth.NewVerifier(keys.NewSource(&memory.Table{}, nil), source), want: auth.Unknown}
		for range pool {
			s.add(a(root), b(root))
		}
		return s, nil
	}
}

// configuredMany is one with many tokens, asked for what is like the first and
// what is like the last.
func configuredMany(like guess, want error) func(context.Context) (subject, error) {
	return func(context.Context) (subject, error) {
		source := new(auth.Configured)
		var tokens []string
		for range candidates {
			token := secret.Generate().Reveal()
			d := secret.DigestOf(token)
			source.Add(d, auth.ClientCaller(d))
			tokens = append(tokens, token)
		}
		s := subject{verifier: auth.NewVerifier(keys.NewSource(&memory.Table{}, nil), source), want: want}
		for range pool {
			s.add(like(tokens[0]), like(tokens[candidates-1]))
		}
		return s, nil
	}
}

// rotating is the authorizer's verifier, after a rotation.
func rotating(a, b guess) func(context.Context) (subject, error) {
	return func(context.Context) (subject, error) {
		vault := vault{secret.Current: secret.Generate(), secret.Previous: secret.Generate()}
		root := auth.Deployed{Token: secret.NewRotating(secret.Config{Store: vault, CacheFor: time.Minute, Grace: time.Hour})}
		s := subject{verifier: auth.NewVerifier(keys.NewSource(&memory.Table{}, nil), root), want: auth.Unknown}
		for range pool {
			right := vault[secret.Current].Reveal()
			s.add(a(right), b(right))
		}
		return s, nil
	}
}

// vault is a secret.Store in memory, of a secret that was just rotated.
type vault map[string]secret.String

// Read implements secret.Store.
func (v vault) Read(_ context.Context, stage string) (secret.Version, error) {
	return secret.Version{Value: v[stage], CreatedAt: time.Now()}, nil
}

// issuedKeys asks for what is like the tokens of keys that there are.
func issuedKeys(now func() time.Time, a, b guess) func(context.Context) (subject, error) {
	return func(ctx context.Context) (subject, error) {
		t := &memory.Table{}
		s := subject{verifier: auth.NewVerifier(keys.NewSource(t, now)), want: auth.Unknown}
		for range pool {
			token, err := issued.Key(ctx, t)
			if err != nil {
				return subject{}, err
			}
			s.add(a(token), b(token))
		}
		return s, nil
	}
}

// noKey is a token with an id that there is not.
func noKey(string) string {
	_, token := keys.New()
	return token.Reveal()
}

func otherSecret(right string) string { return withSecret(right, noKey(right)[secretAt:]) }

func nearlyTheSecret(right string) string { return withSecret(right, wrongAt(42)(right[secretAt:])) }

// The places of a token's parts: postern_<id>_<secret><check>.
const (
	secretAt = len("postern_") + 12 + 1
	checkAt  = secretAt + 43
)

// withSecret is a token of right's id with the secret that from begins with, and
// a checksum that fits: without it the token is refused unseen.
func withSecret(right, from string) string {
	body := right[:secretAt] + from[:checkAt-secretAt]
	var check [6]byte
	sum := crc32.ChecksumIEEE([]byte(body))
	for i := len(check) - 1; i >= 0; i-- {
		check[i] = base62[sum%62]
		sum /= 62
	}
	return body + string(check[:])
}

// leaping is a clock by which half a second goes by between two looks at it: what
// one verification has read is too old for all but the next few.
func leaping() func() time.Time {
	now := time.Now()
	return func() time.Time {
		now = now.Add(500 * time.Millisecond)
		return now
	}
}

func (s *subject) add(a, b string) {
	s.tokens[0] = append(s.tokens[0], a)
	s.tokens[1] = append(s.tokens[1], b)
}
