package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/secret"
)

const canary = "canary-0123456789"

// forms are the ways in which bytes show up in output.
func forms(b []byte) []string {
	decimal := strings.Trim(fmt.Sprint(b), "[]")
	return []string{
		string(b),
		hex.EncodeToString(b),
		strings.ToUpper(hex.EncodeToString(b)),
		fmt.Sprintf("% x", b),
		decimal,
		strings.ReplaceAll(decimal, " ", ","),
		base64.StdEncoding.EncodeToString(b),
		base64.RawURLEncoding.EncodeToString(b),
		strings.Trim(strconv.Quote(string(b)), `"`),
	}
}

// leaks names what of the canary or its digest is to be seen in output. Parts
// are looked for: six bytes of either are proof enough.
func leaks(output string) string {
	sum, _ := hex.DecodeString(canaryDigest)
	for _, f := range append(forms([]byte(canary)[:6]), forms(sum[:6])...) {
		if strings.Contains(output, f) {
			return f
		}
	}
	return ""
}

// canaryDigest is the SHA-256 of canary (`printf %s … | sha256sum`).
const canaryDigest = "14a2d55a1196d0f318f7b226b99e36b8ecce3ce82c274dc865cda044ed4489ff"

type exported struct {
	Token  secret.String
	Digest secret.Digest
}

// unexported is the hard case: fmt calls no method of these fields.
type unexported struct {
	token  secret.String
	digest secret.Digest
	both   []any
}

// carriers are the canary and its digest in everything a program puts them in.
func carriers() map[string]any {
	s, d := secret.New(canary), secret.DigestOf(canary)
	inside := unexported{s, d, []any{s, &s, d, &d}}
	return map[string]any{
		"the secret itself":                  s,
		"a pointer to it":                    &s,
		"the digest itself":                  d,
		"a pointer to the digest":            &d,
		"exported fields":                    exported{s, d},
		"a pointer to exported fields":       &exported{s, d},
		"unexported fields":                  inside,
		"a pointer to unexported fields":     &inside,
		"unexported fields in a slice":       []unexported{inside},
		"unexported fields as a map's value": map[string]unexported{"k": inside},
		"a slice":                            []any{s, d, &s, &d},
		"an array":                           [2]secret.String{s, s},
		"a map's values":                     map[string]any{"s": s, "d": d, "ps": &s, "pd": &d},
		"a map's key":                        map[secret.String]secret.Digest{s: d},
	}
}

// TestNothingLeaks is P4 and I20 at the root: no formatting, logging, encoding
// or error shows a token or a digest.
func TestNothingLeaks(t *testing.T) {
	t.Parallel()
	sinks := map[string]func(v any) string{
		"slog as text": func(v any) string {
			var out bytes.Buffer
			log := slog.New(slog.NewTextHandler(&out, nil)).With("with", v).WithGroup("g")
			log.Info("message", "value", v, slog.Group("group", "inner", v))
			return out.String()
		},
		"slog as JSON": func(v any) string {
			var out bytes.Buffer
			log := slog.New(slog.NewJSONHandler(&out, nil)).With("with", v).WithGroup("g")
			log.Info("message", "value", v, slog.Group("group", "inner", v))
			return out.String()
		},
		"JSON": func(v any) string {
			out, err := json.MarshalIndent(v, "", " ")
			return fmt.Sprint(string(out), err)
		},
		"XML": func(v any) string {
			out, err := xml.Marshal(v)
			return fmt.Sprint(string(out), err)
		},
		"an error":         func(v any) string { return fmt.Errorf("reading %v: %w", v, errors.New("x")).Error() },
		"Print":            func(v any) string { return fmt.Sprint(v, v) + fmt.Sprintln(v, "and", v) },
		"a panic's value":  func(v any) (text string) { defer func() { text = fmt.Sprint(recover()) }(); panic(v) },
		"too many for fmt": func(v any) string { return fmt.Sprintf(strings.Clone("no verb"), v) },
		"a width for fmt":  func(v any) string { return fmt.Sprintf(strings.Clone("%*d %.*s %[5]v"), v, v, v, v) },
	}
	for _, verb := range "vsqxXdbcoOUteEfFgGpTwz" {
		for _, flags := range []string{"", "+", "#", "-", " ", "0", "+#", "60", ".3", "# 0-9.4"} {
			format := "%" + flags + string(verb)
			sinks[format] = func(v any) string { return fmt.Sprintf(format, v) }
		}
	}
	for name, v := range carriers() {
		for sink, write := range sinks {
			if out := write(v); leaks(out) != "" {
				t.Errorf("%s written by %s shows %q: %s", name, sink, leaks(out), out)
			}
		}
	}
}

// TestLeaksFinds keeps TestNothingLeaks honest: it would see the canary.
func TestLeaksFinds(t *testing.T) {
	t.Parallel()
	sum, err := hex.DecodeString(canaryDigest)
	if err != nil {
		t.Fatal(err)
	}
	if d, _ := secret.ParseDigest(canaryDigest); !d.Equal(secret.DigestOf(canary)) {
		t.Fatal("canaryDigest is not the digest of canary")
	}
	type open struct {
		token string
		sum   [32]byte
	}
	v := open{canary, [32]byte(sum)}
	for _, format := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d", "% x"} {
		if out := fmt.Sprintf(format, v); leaks(out) == "" {
			t.Errorf("%s of an open struct goes unseen: %s", format, out)
		}
	}
}

func TestRedactedTextIsRecognisable(t *testing.T) {
	t.Parallel()
	got := fmt.Sprintf("%v %s %d %#v", secret.New(canary), secret.DigestOf(canary), &exported{}, exported{}.Token)
	if diff := cmp.Diff("[redacted] [redacted] &{[redacted] [redacted]} [redacted]", got); diff != "" {
		t.Error(diff)
	}
	encoded, err := json.Marshal(exported{secret.New(canary), secret.DigestOf(canary)})
	if err != nil || string(encoded) != `{"Token":"[redacted]","Digest":"[redacted]"}` {
		t.Errorf("JSON is %s, %v", encoded, err)
	}
}

func TestString(t *testing.T) {
	t.Parallel()
	if got := secret.New(canary).Reveal(); got != canary {
		t.Errorf("Reveal gives %q", got)
	}
	if secret.New(canary).IsEmpty() {
		t.Error("a secret with text is said to be empty")
	}
	for name, empty := range map[string]secret.String{"zero value": {}, `New("")`: secret.New("")} {
		if !empty.IsEmpty() || empty.Reveal() != "" || empty != (secret.String{}) {
			t.Errorf("%s is not the empty secret", name)
		}
	}
}

func TestDigestEqual(t *testing.T) {
	t.Parallel()
	parsed, ok := secret.ParseDigest(canaryDigest)
	if !ok {
		t.Fatal("canaryDigest is no digest")
	}
	rows := []struct {
		name string
		a, b secret.Digest
		want bool
	}{
		{"of the same token twice", secret.DigestOf(canary), secret.DigestOf(canary), true},
		{"of the token, and as sha256sum prints it", secret.DigestOf(canary), parsed, true},
		{"of a token one byte shorter", secret.DigestOf(canary), secret.DigestOf(canary[:len(canary)-1]), false},
		{"of a token one byte longer", secret.DigestOf(canary), secret.DigestOf(canary + "0"), false},
		{"of the token and of its digest's text", secret.DigestOf(canary), secret.DigestOf(canaryDigest), false},
		{"of the token in another case", secret.DigestOf(canary), secret.DigestOf(strings.ToUpper(canary)), false},
		{"of something and the zero value", secret.DigestOf(canary), secret.Digest{}, false},
		{"of the empty text and the zero value", secret.DigestOf(""), secret.Digest{}, false},
		{"of nothing at all: the zero value is equal to none", secret.Digest{}, secret.Digest{}, false},
	}
	for _, row := range rows {
		if row.a.Equal(row.b) != row.want || row.b.Equal(row.a) != row.want {
			t.Errorf("digests %s: equal is not %v", row.name, row.want)
		}
	}
}

// TestDigestEveryByteCounts is I6 and I19: 72 of 86 bytes counted there, and 20.
func TestDigestEveryByteCounts(t *testing.T) {
	t.Parallel()
	token := []byte(strings.Repeat("k", secret.MaxToken))
	d := secret.DigestOf(string(token))
	for i := range token {
		token[i] = 'K'
		if d.Equal(secret.DigestOf(string(token))) {
			t.Errorf("byte %d of a token doesn't count", i)
		}
		token[i] = 'k'
	}
	digits := []byte(canaryDigest)
	whole, _ := secret.ParseDigest(canaryDigest)
	for i, was := range digits {
		digits[i] = map[bool]byte{true: '1', false: '0'}[was == '0']
		if d, ok := secret.ParseDigest(string(digits)); !ok || d.Equal(whole) {
			t.Errorf("digit %d of a digest doesn't count", i)
		}
		digits[i] = was
	}
}

func TestParseDigest(t *testing.T) {
	t.Parallel()
	rows := []struct {
		name, text string
		ok         bool
	}{
		{"64 small hexadecimal digits", canaryDigest, true},
		{"capitals, I5", strings.ToUpper(canaryDigest), true},
		{"both cases mixed", strings.ToUpper(canaryDigest[:20]) + canaryDigest[20:], true},
		{"nothing", "", false},
		{"63 digits", canaryDigest[1:], false},
		{"65 digits", canaryDigest + "0", false},
		{"62 digits", canaryDigest[2:], false},
		{"128 digits", canaryDigest + canaryDigest, false},
		{"a letter that is no digit", "g" + canaryDigest[1:], false},
		{"a space in front", " " + canaryDigest[1:], false},
		{"a newline at the end", canaryDigest[1:] + "\n", false},
		{"0x in front", "0x" + canaryDigest[2:], false},
		{"a prefix", "sha256:" + canaryDigest, false},
		{"64 bytes that are not ASCII", strings.Repeat("é", 32), false},
	}
	for _, row := range rows {
		d, ok := secret.ParseDigest(row.text)
		if ok != row.ok {
			t.Errorf("%s: ok is %v", row.name, ok)
		}
		if d.Equal(secret.DigestOf(canary)) != row.ok {
			t.Errorf("%s: the digest is not what ok says", row.name)
		}
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	if got := secret.DigestOf(canary).Label(); got != canaryDigest[:8] {
		t.Errorf("the label is %s, not the first 8 digits", got)
	}
	if got := (secret.Digest{}).Label(); got != "" {
		t.Errorf("the label of nothing is %q", got)
	}
}

func TestWellFormed(t *testing.T) {
	t.Parallel()
	for b := range 256 {
		if got, want := secret.WellFormed("a"+string([]byte{byte(b)})+"z"), b >= 0x21 && b <= 0x7e; got != want {
			t.Errorf("byte %#02x: well-formed is %v", b, got)
		}
	}
	for length, want := range map[int]bool{0: false, 1: true, 511: true, 512: true, 513: false, 1 << 20: false} {
		if got := secret.WellFormed(strings.Repeat("t", length)); got != want {
			t.Errorf("%d bytes: well-formed is %v", length, got)
		}
	}
}

func TestGenerate(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	used := map[rune]bool{}
	const n = 500
	for range n {
		token := secret.Generate().Reveal()
		b, err := base64.RawURLEncoding.DecodeString(token)
		if len(token) != 43 || !secret.WellFormed(token) || err != nil || len(b) != 32 {
			t.Fatalf("a generated token is not 32 bytes in 43 URL-safe characters: %q", token)
		}
		seen[token] = true
		for _, c := range token {
			used[c] = true
		}
	}
	if len(seen) != n {
		t.Errorf("%d tokens, %d distinct", n, len(seen))
	}
	if len(used) != 64 {
		t.Errorf("only %d of the 64 characters ever occur", len(used))
	}
}

// configured are values as operators write them, P18 and I5.
var configured = []struct {
	name, text string
	token      string // whose digest it is; "": refused
	message    string
}{
	{name: "a token", text: canary, token: canary},
	{name: "a token with the newline of an editor", text: canary + "\n", token: canary},
	{name: "a token with the newline of Windows", text: canary + "\r\n", token: canary},
	{name: "a token between spaces and tabs", text: " \t" + canary + "\t ", token: canary},
	{name: "a token of one character", text: "x", token: "x"},
	{name: "a token of 512 bytes", text: strings.Repeat("x", 512), token: strings.Repeat("x", 512)},
	{name: "a token of 512 bytes and a newline", text: strings.Repeat("x", 512) + "\n", token: strings.Repeat("x", 512)},
	{name: "a digest", text: "sha256:" + canaryDigest, token: canary},
	{name: "a digest in capitals", text: "sha256:" + strings.ToUpper(canaryDigest), token: canary},
	{name: "a digest with a newline", text: "sha256:" + canaryDigest + "\n", token: canary},
	{name: "64 digits without the prefix are a token", text: canaryDigest, token: canaryDigest},
	{name: "nothing", text: "", message: "it is empty"},
	{name: "only white space", text: " \n\t", message: "it is empty"},
	{name: "513 bytes", text: strings.Repeat("x", 513), message: "it has 513 bytes, at most 512 are allowed"},
	{name: "a space inside", text: "secret canary-0", message: "it has a space or a character outside printable ASCII, which no client could send"},
	{name: "a newline inside", text: "canary-0\ncanary-1", message: "it has a space or a character outside printable ASCII, which no client could send"},
	{name: "a letter that is not ASCII", text: "canary-é", message: "it has a space or a character outside printable ASCII, which no client could send"},
	{name: "a byte that is not UTF-8", text: "canary-\xff", message: "it has a space or a character outside printable ASCII, which no client could send"},
	{name: "a byte order mark", text: "\ufeffcanary-0", message: "it has a space or a character outside printable ASCII, which no client could send"},
	{name: "a NUL", text: "canary-\x00", message: "it has a space or a character outside printable ASCII, which no client could send"},
	{name: "a digest cut short", text: "sha256:" + canaryDigest[:63], message: "sha256: must be followed by exactly 64 hexadecimal digits, here are 63 characters"},
	{name: "a digest too long", text: "sha256:" + canaryDigest + "0", message: "sha256: must be followed by exactly 64 hexadecimal digits, here are 65 characters"},
	{name: "a digest with a letter that is no digit", text: "sha256:x" + canaryDigest[1:], message: "sha256: must be followed by exactly 64 hexadecimal digits, here are 64 characters"},
	{name: "the prefix alone", text: "sha256:", message: "sha256: must be followed by exactly 64 hexadecimal digits, here are 0 characters"},
	{name: "a token after the prefix", text: "sha256:" + canary, message: "sha256: must be followed by exactly 64 hexadecimal digits, here are 17 characters"},
}

func TestParseConfigured(t *testing.T) {
	t.Parallel()
	for _, row := range configured {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			d, err := secret.ParseConfigured(row.text)
			if row.token == "" {
				if err == nil || d != (secret.Digest{}) {
					t.Fatal("is taken")
				}
				if diff := cmp.Diff(row.message, err.Error()); diff != "" {
					t.Error(diff)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if !d.Equal(secret.DigestOf(row.token)) {
				t.Error("is another token's digest")
			}
		})
	}
}

// FuzzParseConfigured: what is taken is a token a client can send or a digest;
// an error never repeats the value, P4.
func FuzzParseConfigured(f *testing.F) {
	for _, row := range configured {
		f.Add(row.text)
	}
	const marker = "cAnArY"
	f.Fuzz(func(t *testing.T, text string) {
		d, err := secret.ParseConfigured(text)
		trimmed := strings.TrimSpace(text)
		if err == nil {
			hexDigits, isDigest := strings.CutPrefix(trimmed, "sha256:")
			parsed, ok := secret.ParseDigest(hexDigits)
			switch {
			case isDigest && (!ok || !parsed.Equal(d)):
				t.Errorf("%q is taken as a digest", text)
			case !isDigest && (!secret.WellFormed(trimmed) || !d.Equal(secret.DigestOf(trimmed))):
				t.Errorf("%q is taken as a token", text)
			}
			return
		}
		if d.Equal(secret.DigestOf(trimmed)) {
			t.Errorf("%q is refused and its digest returned", text)
		}
		_, err = secret.ParseConfigured(trimmed + marker + " " + marker)
		if err == nil || strings.Contains(err.Error(), marker) {
			t.Errorf("the error for %q repeats it: %v", text, err)
		}
	})
}
