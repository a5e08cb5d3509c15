package jobs_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"postern/shared/api"
	"postern/shared/jobs"
)

// What a caller may name, and what it is told of what it may not. The value is
// never repeated (P4).
func TestNewCallback(t *testing.T) {
	t.Parallel()
	const longest = "https://canary.example.com/"
	label := strings.Repeat("a", 63)
	for _, row := range []struct {
		name, url string
		fault     string // "": none
	}{
		{"a name", "https://canary.example.com/jobs?of=me", ""},
		{"a name and nothing else", "https://example.com", ""},
		{"a query and no path", "https://example.com?x", ""},
		{"a port", "https://canary.example.com:8443/", ""},
		{"the last port", "https://canary.example.com:65535/", ""},
		{"upper case", "HTTPS://Hooks.Example.COM/", ""},
		{"a name with its last dot", "https://canary.example.com./", ""},
		{"an underscore", "https://my_canary.example.com/", ""},
		{"another alphabet in its ASCII form", "https://xn--bcher-kva.example/", ""},
		{"the longest label", "https://" + label + ".example.com/", ""},
		{"a public address", "https://8.8.8.8/", ""},
		{"a public address of IPv6", "https://[2606:4700:4700::1111]:8443/", ""},
		{"2048 bytes", longest + strings.Repeat("x", 2048-len(longest)), ""},
		{"a name that only looks local", "https://localhost.example.com/", ""},
		{"a name that only ends like a local one", "https://notlocal.example-internal.com/", ""},

		{"nothing", "", "is missing"},
		{"2049 bytes", longest + strings.Repeat("x", 2049-len(longest)), "at most 2048 bytes"},
		{"a space", "https://canary.example.com/a b", "a space"},
		{"a newline", "https://canary.example.com/\nHost:x", "a space"},
		{"a control character", "https://canary.example.com/\x7f", "outside ASCII"},
		{"an umlaut", "https://bücher.example/", "xn--"},
		{"no UTF-8", "https://canary.example.com/\xff", "outside ASCII"},
		{"a wrong escape", "https://canary.example.com/%zz", "is no URL"},
		{"http", "http://canary.example.com/", "https://"},
		{"a file", "file:///etc/canary", "https://"},
		{"no scheme", "canary.example.com/jobs", "https://"},
		{"no scheme but slashes", "//canary.example.com/jobs", "https://"},
		{"no slashes", "https:canary.example.com", "is no URL"},
		{"no host", "https:///jobs", "no valid host"},
		{"a port for a host", "https://:443/", "no valid host"},
		{"a name for us", "https://me@canary.example.com/", "before its host"},
		{"a password for us", "https://me:canary@canary.example.com/", "before its host"},
		{"an empty name for us", "https://@canary.example.com/", "before its host"},
		{"a fragment", "https://canary.example.com/#canary", "fragment"},
		{"an empty fragment", "https://canary.example.com/#", "fragment"},
		{"port 0", "https://canary.example.com:0/", "1 to 65535"},
		{"port 65536", "https://canary.example.com:65536/", "1 to 65535"},
		{"a huge port", "https://canary.example.com:18446744073709551617/", "1 to 65535"},
		{"a colon and no port", "https://canary.example.com:/", "1 to 65535"},
		{"a word for a port", "https://canary.example.com:https/", "is no URL"},
		{"a negative port", "https://canary.example.com:-1/", "is no URL"},
		{"localhost", "https://localhost/", "local network"},
		{"localhost in capitals", "https://LOCALHOST:8443/", "local network"},
		{"localhost with a dot", "https://localhost./", "local network"},
		{"under localhost", "https://a.localhost/", "local network"},
		{"mDNS", "https://canary.local/", "local network"},
		{"a cloud's metadata", "https://metadata.google.internal/canary", "local network"},
		{"the same in capitals, with a dot", "https://METADATA.GOOGLE.INTERNAL./", "local network"},
		{"a home", "https://canary.home.arpa/", "local network"},
		{"a bare name", "https://canary/", "local network"},
		{"loopback", "https://127.0.0.1/", "public ones alone"},
		{"metadata", "https://169.254.169.254/latest/canary", "public ones alone"},
		{"loopback of IPv6", "https://[::1]:443/", "public ones alone"},
		{"mapped loopback", "https://[::ffff:127.0.0.1]/", "public ones alone"},
		{"a public address in a zone", "https://[2606:4700:4700::1111%25eth0]/", "public ones alone"},
		{"loopback in one number", "https://2130706433/", "unusual form"},
		{"loopback in hexadecimal", "https://0x7f000001/", "unusual form"},
		{"loopback in two numbers", "https://127.1/", "unusual form"},
		{"loopback in octal", "https://0177.0.0.1/", "unusual form"},
		{"loopback with a dot", "https://127.0.0.1./", "unusual form"},
		{"an escaped host", "https://%31%32%37.0.0.1/", "is no URL"},
		{"digits of another script, escaped", "https://%E2%91%A0.example.com/", "no valid host"},
		{"two dots", "https://canary..example.com/", "no valid host"},
		{"a dot alone", "https://./", "no valid host"},
		{"a label of 64", "https://" + label + "a.example.com/", "no valid host"},
		{"a name of 255", "https://" + strings.Repeat(label[:49]+".", 5) + "exam.", "no valid host"},
		{"a backslash", `https://canary.example.com\@127.0.0.1/`, "is no URL"},
		{"brackets around nonsense", "https://[canary.example.com]/", "is no URL"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			cb, err := jobs.NewCallback(&jobs.CallbackWords{URL: row.url, Secret: "s"})
			if row.fault == "" {
				if err != nil || cb == nil {
					t.Fatalf("refused: %s", detailOf(err))
				}
				return
			}
			detail := detailOf(err)
			if !strings.HasPrefix(detail, `The field "callback.url" `) || !strings.Contains(detail, row.fault) {
				t.Errorf("%q, %v", detail, err)
			}
			if strings.Contains(detail+err.Error(), "canary") {
				t.Errorf("%q, %v repeat the value", detail, err)
			}
		})
	}
}

// detailOf is what the caller is told by an error of api.InvalidRequest.
func detailOf(err error) string {
	if e, ok := errors.AsType[*api.Error](err); ok && e.Code == api.InvalidRequest {
		return e.Detail
	}
	return fmt.Sprintf("no refusal: %v", err)
}

func TestCallbackSecret(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, secret string
		fits         bool
	}{
		{"none", "", true},
		{"any text", "pässword \x00\n\xff", true},
		{"512 bytes", strings.Repeat("x", 512), true},
		{"513 bytes", strings.Repeat("x", 513), false},
		{"fewer characters, but more bytes", strings.Repeat("ü", 257), false},
	} {
		_, err := jobs.NewCallback(&jobs.CallbackWords{URL: "https://hooks.example.com/", Secret: row.secret})
		if row.fits != (err == nil) {
			t.Errorf("%s: %v", row.name, err)
		}
		if detail := detailOf(err); !row.fits && (!strings.HasPrefix(detail, `The field "callback.secret" `) || !strings.Contains(detail, "512") || strings.Contains(detail, row.secret[:20])) {
			t.Errorf("%s: %q", row.name, detail)
		}
	}
}

// P4: a Callback shows nothing, however it is printed.
func TestP4CallbackIsSilent(t *testing.T) {
	t.Parallel()
	cb, err := jobs.NewCallback(&jobs.CallbackWords{URL: "https://canary-host.example.com/canary-path?canary-query", Secret: "canary-secret"})
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
		fmt.Fprintf(&out, verb+verb+verb, cb, *cb, []any{cb, struct{ c jobs.Callback }{*cb}})
	}
	encoded, err := json.Marshal(map[string]any{"a": cb, "b": *cb})
	if err != nil {
		t.Fatal(err)
	}
	out.Write(encoded)
	for _, h := range []slog.Handler{slog.NewTextHandler(&out, nil), slog.NewJSONHandler(&out, nil)} {
		slog.New(h).Info("x", "pointer", cb, "value", *cb)
	}
	for _, canary := range []string{"canary", fmt.Sprintf("%x", "canary")} {
		if strings.Contains(out.String(), canary) {
			t.Errorf("%q is in %s", canary, out.String())
		}
	}
}

// What is accepted is https, and a host that is a public address or a name of
// several labels.
func FuzzNewCallback(f *testing.F) {
	for _, s := range []string{
		"https://hooks.example.com/jobs?a=b", "https://[::1]:443/", "https://127.0.0.1", "https://a:b@c.de/", "https://a.b:0", "https://a.b.#",
		"HTTPS://%41.b", "https://[::ffff:8.8.8.8%25x]/", "https:a.b", "https://a..b", "http://a.b",
	} {
		f.Add(s, "secret")
	}
	f.Fuzz(func(t *testing.T, text, secret string) {
		cb, err := jobs.NewCallback(&jobs.CallbackWords{URL: text, Secret: secret})
		if err != nil {
			if cb != nil || !strings.HasPrefix(detailOf(err), `The field "callback.`) {
				t.Fatalf("%v, %v", cb, err)
			}
			return
		}
		u, err := url.Parse(text)
		if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || len(text) > 2048 || len(secret) > 512 {
			t.Fatalf("%q is accepted", text)
		}
		if a, err := netip.ParseAddr(u.Hostname()); err == nil && !jobs.Public(a) || err != nil && !strings.Contains(strings.Trim(u.Hostname(), "."), ".") {
			t.Errorf("%q is accepted", text)
		}
		if host := strings.ToLower(u.Hostname()); strings.Contains(host+"/", "localhost/") || strings.Contains(host+"/", ".internal/") {
			t.Errorf("%q is accepted", text)
		}
	})
}
