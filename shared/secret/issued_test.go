package secret_test

import (
	"regexp"
	"testing"

	"postern/shared/secret"
)

const key = "postern_AAAAbbbb0000_" + "0123456789abcdefghijklmnopqrstuvwxyzABCDEFG" + "hijklm"

// TestIsIssued: a key has its form whole or not at all, contract §2.
func TestIsIssued(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, token string
		want        bool
	}{
		{"an issued key", key, true},
		{"an issued key with another checksum, which is not looked at here", key[:len(key)-6] + "000000", true},
		{"nothing", "", false},
		{"the prefix alone", "postern_", false},
		{"a character less", key[:len(key)-1], false},
		{"a character more", key + "0", false},
		{"something before", "x" + key, false},
		{"a newline after", key + "\n", false},
		{"a newline before", "\n" + key, false},
		{"a line of it among others", "x\n" + key + "\nx", false},
		{"the prefix in capitals", "POSTERN_" + key[8:], false},
		{"another prefix", "posterm_" + key[8:], false},
		{"an id of 11", "postern_" + key[9:], false},
		{"an id of 13", "postern_0" + key[8:], false},
		{"the second line in another place", "postern_AAAAbbbb000_0" + key[21:], false},
		{"a hyphen in the secret", key[:30] + "-" + key[31:], false},
		{"a line in the secret", key[:30] + "_" + key[31:], false},
		{"a letter beyond ASCII", key[:30] + "é" + key[32:], false},
		{"a generated root token", "Zm9vYmFyMDEyMzQ1Njc4OWFiY2RlZmdoaWprbG1ub3A", false},
		{"two keys", key + key, false},
	}
	for _, row := range rows {
		if got := secret.IsIssued(row.token); got != row.want {
			t.Errorf("%s has the form: %v", row.name, got)
		}
	}
}

// TestPatternFindsKeys: the published expression finds a key in a text, as
// secret scanners use it.
func TestPatternFindsKeys(t *testing.T) {
	t.Parallel()
	found := regexp.MustCompile(secret.IssuedPattern).FindString("curl -H 'Authorization: Bearer " + key + "' https://example.com")
	if found != key {
		t.Errorf("found is %q", found)
	}
}

// TestRevealedDigest: what is kept of a token is its SHA-256, and comes back as
// it was; the digest of nothing stays equal to none.
func TestRevealedDigest(t *testing.T) {
	t.Parallel()
	const sum = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad" // of "abc", FIPS 180-2 appendix B.1
	d := secret.DigestOf("abc")
	if got := d.Reveal(); got != sum {
		t.Errorf("the digest is kept as %s", got)
	}
	if back, ok := secret.ParseDigest(d.Reveal()); !ok || !back.Equal(d) {
		t.Errorf("it doesn't come back: %v", ok)
	}
	nothing := secret.Digest{}.Reveal()
	if back, ok := secret.ParseDigest(nothing); nothing != "" || ok || back.Equal(secret.Digest{}) {
		t.Errorf("the digest of nothing is kept as %q", nothing)
	}
}

// FuzzIsIssued: the check that is written out and the published expression are
// the same.
func FuzzIsIssued(f *testing.F) {
	whole := regexp.MustCompile(`\A(?:` + secret.IssuedPattern + `)\z`)
	f.Add("")
	f.Add(key)
	for i := range key { // each byte in turn another one
		for _, c := range "/0:@AZ[`az{_-é" {
			f.Add(key[:i] + string(c) + key[i+1:])
		}
		f.Add(key[:i])
		f.Add(key[:i] + key[i+1:])
	}
	f.Fuzz(func(t *testing.T, token string) {
		if got, want := secret.IsIssued(token), whole.MatchString(token); got != want {
			t.Errorf("%q has the form: %v, matches the pattern: %v", token, got, want)
		}
	})
}
