package settings

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"postern/shared/auth"
	"postern/shared/model"
	"postern/shared/secret"
)

// One parser for each kind of value. A parser's error is the fault alone, on
// one line, in at most a few words of the value; those of secrets and URLs
// repeat none of it. The cure is the row's.

// choice takes exactly one of some words.
func choice[T any](words map[string]T) func(string) (T, error) {
	return func(text string) (T, error) {
		v, ok := words[text]
		if !ok {
			return v, fmt.Errorf("%.64q is not one of its words", text)
		}
		return v, nil
	}
}

// number takes decimal digits, from min (not negative) to max.
func number(min, max int) func(string) (int, error) {
	return func(text string) (int, error) {
		n, err := strconv.ParseInt(text, 10, 64)
		switch {
		case errors.Is(err, strconv.ErrRange) || err == nil && (n < int64(min) || n > int64(max)):
			return 0, fmt.Errorf("%.64q is out of range", text)
		case err != nil || text[0] < '0':
			return 0, fmt.Errorf("%.64q is no whole number", text)
		}
		return int(n), nil
	}
}

func seconds(min, max int) func(string) (time.Duration, error) {
	return func(text string) (time.Duration, error) {
		n, err := number(min, max)(text)
		return time.Duration(n) * time.Second, err
	}
}

// duration takes <n>s, <n>m, <n>h or <n>d, from min to max; where min is 0 also
// a bare 0.
func duration(min, max time.Duration) func(string) (time.Duration, error) {
	units := map[byte]time.Duration{'s': time.Second, 'm': time.Minute, 'h': time.Hour, 'd': 24 * time.Hour}
	return func(text string) (time.Duration, error) {
		if text == "0" && min == 0 {
			return 0, nil
		}
		last := len(text) - 1
		unit, ok := units[text[last]]
		n, err := strconv.ParseUint(text[:last], 10, 64)
		switch {
		case !ok || errors.Is(err, strconv.ErrSyntax):
			return 0, fmt.Errorf("%.64q is no duration", text)
		case err != nil || n > uint64(max/unit) || time.Duration(n)*unit < min:
			return 0, fmt.Errorf("%.64q is out of range", text)
		}
		return time.Duration(n) * unit, nil
	}
}

// list splits at commas and trims. An empty entry is refused: a stray comma
// may stand where a value got lost.
func list(text string) ([]string, error) {
	entries := strings.Split(text, ",")
	for i, e := range entries {
		entries[i] = strings.TrimSpace(e)
		if entries[i] == "" {
			return nil, fmt.Errorf("entry %d: it is empty", i+1)
		}
	}
	return entries, nil
}

// each takes a list of what parse takes.
func each[T any](parse func(string) (T, error)) func(string) ([]T, error) {
	return func(text string) ([]T, error) {
		entries, err := list(text)
		if err != nil {
			return nil, err
		}
		values := make([]T, len(entries))
		for i, e := range entries {
			if values[i], err = parse(e); err != nil {
				return nil, fmt.Errorf("entry %d: %w", i+1, err)
			}
		}
		return values, nil
	}
}

// parseToken takes a credential as an operator configures it. A digest whose
// prefix is in capitals would be read as the token itself, and never match.
func parseToken(text string) (secret.Digest, error) {
	text = strings.TrimSpace(text)
	if n := len(digestPrefix); len(text) > n && text[:n] != digestPrefix && strings.EqualFold(text[:n], digestPrefix) {
		return secret.Digest{}, errors.New("sha256: is written in small letters")
	}
	return secret.ParseConfigured(text)
}

func token(text string) (*secret.Digest, error) {
	d, err := parseToken(text)
	return &d, err
}

// singleToken is token for a setting whose neighbour takes a list: a comma is
// more likely a second credential than part of the one.
func singleToken(text string) (*secret.Digest, error) {
	if strings.Contains(text, ",") {
		return nil, errors.New("it has a comma in it")
	}
	return token(text)
}

// apiKey takes what can stand in a header. Providers' keys may be longer than
// ours.
func apiKey(text string) (secret.String, error) {
	text = strings.TrimSpace(text)
	if !visible(text) {
		return secret.String{}, errors.New("it has a space or a character outside printable ASCII")
	}
	return secret.New(text), nil
}

func addresses(text string) (auth.Addresses, error) {
	if _, err := list(text); err != nil {
		return auth.Addresses{}, err
	}
	return auth.ParseAddresses(text)
}

func proxies(text string) (auth.Proxies, error) {
	if _, err := list(text); err != nil {
		return auth.Proxies{}, err
	}
	return auth.ParseProxies(text)
}

func origins(text string) ([]string, error) {
	if strings.TrimSpace(text) == "*" {
		return []string{"*"}, nil
	}
	return each(origin)(text)
}

// origin takes an origin exactly as a browser sends it in its Origin header
// (RFC 6454 §6.2: no path, small letters, no default port), because it is
// compared as text; the fault of any other spelling is the right one.
func origin(text string) (string, error) {
	if text == "*" {
		return "", errors.New("* stands beside other entries")
	}
	u, ok := httpURL(text)
	if !ok {
		return "", errors.New("it is no http or https origin")
	}
	want := u.Scheme + "://" + strings.ToLower(u.Hostname())
	if strings.Contains(u.Hostname(), ":") {
		want = u.Scheme + "://[" + strings.ToLower(u.Hostname()) + "]"
	}
	if p := u.Port(); p != "" && p != map[string]string{"http": "80", "https": "443"}[u.Scheme] {
		want += ":" + strings.TrimLeft(p, "0")
	}
	if text != want {
		return "", fmt.Errorf("no browser sends it so; write %s (no path, no slash at the end)", want)
	}
	return text, nil
}

// baseURL takes a URL that paths are put behind.
func baseURL(text string) (string, error) {
	u, ok := httpURL(text)
	switch {
	case !ok:
		return "", errors.New("it is no http or https URL")
	case u.User != nil:
		return "", errors.New("it has a user name or a password in it")
	case strings.ContainsAny(text, "?#"):
		return "", errors.New("it has a query or a fragment")
	}
	return strings.TrimRight(text, "/"), nil
}

// httpURL takes an absolute http or https URL with a sound host and port.
func httpURL(text string) (*url.URL, bool) {
	u, err := url.Parse(text)
	if err != nil || !visible(text) || u.Scheme != "http" && u.Scheme != "https" || !validHost(u.Hostname()) {
		return nil, false
	}
	if u.Port() == "" {
		return u, true
	}
	port, err := strconv.ParseUint(u.Port(), 10, 16)
	return u, err == nil && port > 0
}

// host takes what a listener binds to.
func host(text string) (string, error) {
	if strings.Contains(text, "://") {
		return "", errors.New("it has a scheme in it")
	}
	if validHost(text) {
		return text, nil
	}
	if name, _, err := net.SplitHostPort(text); err == nil && validHost(name) {
		return "", fmt.Errorf("%.64q has a port in it", text)
	}
	return "", fmt.Errorf("%.64q is neither an IP address nor a host name", text)
}

// validHost reports whether s is an IP address or a host name: labels of
// RFC 1123, and the underscore that container networks use. A last label of
// digits alone is a broken address.
func validHost(s string) bool {
	if _, err := netip.ParseAddr(s); err == nil {
		return true
	}
	if len(s) > 253 {
		return false
	}
	labels := strings.Split(s, ".")
	for _, l := range labels {
		if l == "" || len(l) > 63 || l[0] == '-' || l[len(l)-1] == '-' || !only(l, "_-") {
			return false
		}
	}
	return strings.Trim(labels[len(labels)-1], "0123456789") != ""
}

// path takes a file's path. It need not exist yet.
func path(text string) (string, error) {
	if strings.ContainsFunc(text, func(r rune) bool { return r < ' ' || r == 0x7f }) {
		return "", fmt.Errorf("%.64q has a line break or another control character in it", text)
	}
	return text, nil
}

func modelName(text string) (string, error) {
	name, err := model.ParseName(text)
	if err != nil {
		return "", fmt.Errorf("%.64q is no model's name", text)
	}
	return name.String(), nil
}

// secretARN takes arn:<partition>:secretsmanager:<region>:<account>:secret:<name>.
func secretARN(text string) (string, error) {
	part := strings.SplitN(text, ":", 7)
	if len(part) < 7 || part[0] != "arn" || part[2] != "secretsmanager" || part[5] != "secret" || !visible(text) {
		return "", errors.New("it is no such ARN")
	}
	return text, nil
}

// resourceARN takes what IAM does as a resource of a policy.
func resourceARN(text string) (string, error) {
	if text != "*" && !strings.HasPrefix(text, "arn:") || !visible(text) {
		return "", fmt.Errorf("%.64q is no ARN", text)
	}
	return text, nil
}

// tableName takes what DynamoDB does ("Naming rules" in its developer guide).
func tableName(text string) (string, error) {
	if len(text) < 3 || len(text) > 255 || !only(text, "_.-") {
		return "", fmt.Errorf("%.64q is no table's name", text)
	}
	return text, nil
}

// only reports whether s has nothing but ASCII letters, digits and others.
func only(s, others string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
		return !letter && !('0' <= r && r <= '9') && !strings.ContainsRune(others, r)
	})
}

// visible reports whether s is of visible ASCII characters alone.
func visible(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r < 0x21 || r > 0x7e })
}
