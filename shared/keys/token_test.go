package keys_test

import (
	"errors"
	"hash/crc32"
	"strings"
	"testing"

	"postern/shared/keys"
	"postern/shared/secret"
)

const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

// tokenOf makes a token as a stranger would by the published format.
func tokenOf(id, secretPart string) string {
	body := "postern_" + id + "_" + secretPart
	check := ""
	for n := crc32.ChecksumIEEE([]byte(body)); len(check) < 6; n /= 62 {
		check = digits[n%62:][:1] + check
	}
	return body + check
}

// someSecret has the form of a token's secret part.
var someSecret = strings.Repeat("s3cr3t", 7) + "x"

// TestFormat pins the format by tokens that Python's zlib.crc32 made the check
// of: it outlives every version of this code.
func TestFormat(t *testing.T) {
	t.Parallel()
	for token, id := range map[string]string{
		"postern_AAAAbbbb0000_0123456789abcdefghijklmnopqrstuvwxyzABCDEFG1nmdmL": "AAAAbbbb0000",
		"postern_000000000000_00000000000000000000000000000000000000000004PPBRr": "000000000000",
	} {
		if got, err := keys.Parse(token); got != id || err != nil {
			t.Errorf("%s: %q, %v", token, got, err)
		}
	}
}

// TestNew: each token has the published form, parses to its id, and is nobody
// else's.
func TestNew(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 1000 {
		id, token := keys.New()
		if !secret.IsIssued(token.Reveal()) {
			t.Fatalf("a token without its form: %d characters", len(token.Reveal()))
		}
		if got, err := keys.Parse(token.Reveal()); got != id || err != nil {
			t.Fatalf("a token of %s is taken for %q: %v", id, got, err)
		}
		if seen[id] || seen[token.Reveal()[21:]] {
			t.Fatal("an id or a secret comes twice")
		}
		seen[id], seen[token.Reveal()[21:]] = true, true
	}
}

// TestSecretsAreUnbiased: every digit is as likely as the others at every place,
// by a chi-squared test whose bound a fair source exceeds once in 10^9 runs. 256
// values put on 62 digits without care exceed it many times over.
func TestSecretsAreUnbiased(t *testing.T) {
	t.Parallel()
	const tokens = 4000
	var count [62]float64
	for range tokens {
		_, token := keys.New()
		text := token.Reveal()
		for _, c := range text[8:20] + text[21:64] {
			count[strings.IndexRune(digits, c)]++
		}
	}
	expected := float64(tokens*55) / 62
	chi := 0.0
	for _, n := range count {
		chi += (n - expected) * (n - expected) / expected
	}
	if chi > 150 { // 61 degrees of freedom
		t.Errorf("chi-squared is %.0f", chi)
	}
}

// TestMistypedTokens: a slip of the hand is found without asking anybody.
func TestMistypedTokens(t *testing.T) {
	t.Parallel()
	_, made := keys.New()
	token := made.Reveal()
	refused := func(name, token string, want ...error) {
		t.Helper()
		id, err := keys.Parse(token)
		for _, w := range want {
			if id == "" && errors.Is(err, w) {
				return
			}
		}
		t.Errorf("%s: %q, %v", name, id, err)
	}
	for i := range token {
		refused("a character less", token[:i]+token[i+1:], keys.ErrForm)
		for _, c := range "0aZ_-" {
			if wrong := token[:i] + string(c) + token[i+1:]; wrong != token {
				refused("another character", wrong, keys.ErrForm, keys.ErrChecksum)
			}
		}
		if i > 0 && token[i] != token[i-1] {
			refused("two exchanged", token[:i-1]+token[i:i+1]+token[i-1:i]+token[i+1:], keys.ErrForm, keys.ErrChecksum)
		}
	}
	refused("nothing", "", keys.ErrForm)
	refused("a root token", secret.Generate().Reveal(), keys.ErrForm)
	refused("another checksum", token[:64]+tokenOf("AAAAAAAAAAAA", someSecret)[64:], keys.ErrChecksum)
	for _, err := range []error{keys.ErrForm, keys.ErrChecksum} {
		if strings.Contains(err.Error(), token) {
			t.Error("an error repeats the token, P4")
		}
	}
}

// FuzzParse: what is taken is the published form with the right check, and
// nothing else is.
func FuzzParse(f *testing.F) {
	f.Add("")
	f.Add("postern_")
	for range 20 {
		_, token := keys.New()
		f.Add(token.Reveal())
		f.Add(token.Reveal()[:69])
	}
	f.Fuzz(func(t *testing.T, token string) {
		id, err := keys.Parse(token)
		want := secret.IsIssued(token) && tokenOf(token[8:20], token[21:64]) == token
		if (err == nil) != want || want && id != token[8:20] || !want && id != "" {
			t.Errorf("%q: %q, %v", token, id, err)
		}
	})
}

// BenchmarkParse is what a mistyped key costs.
func BenchmarkParse(b *testing.B) {
	_, token := keys.New()
	b.ReportAllocs()
	for b.Loop() {
		keys.Parse(token.Reveal())
	}
}
