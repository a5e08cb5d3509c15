package jobs

import (
	"errors"
	"net/netip"
	"net/url"
	"strconv"
	"strings"

	"postern/shared/api"
	"postern/shared/secret"
)

// Bounds of a callback's words, in bytes.
const (
	maxURL    = 2048
	maxSecret = 512
)

// Callback is where the end of a job is told. Both of its parts may open doors.
type Callback struct {
	url    secret.String
	secret secret.String // signs what is sent; empty: it goes unsigned
}

// CallbackWords is a callback as a caller writes it.
type CallbackWords struct {
	URL    string `json:"url"`
	Secret string `json:"secret"`
}

// NewCallback reads a caller's words; of none it makes none. The URL is https and names a host of the
// internet; the secret is any text, or none. The error is an *api.Error of
// api.InvalidRequest, which names the field and the cure and repeats no value.
//
// Nothing is looked up. What a name stands for is seen when the Courier connects:
// it may be another address by then.
func NewCallback(words *CallbackWords) (*Callback, error) {
	if words == nil {
		return nil, nil
	}
	if _, err := parseURL(words.URL); err != nil {
		return nil, api.Fail(api.InvalidRequest, "The field %q %v.", "callback.url", err)
	}
	if len(words.Secret) > maxSecret {
		return nil, api.Fail(api.InvalidRequest, "The field %q is too long: it takes at most %d bytes.", "callback.secret", maxSecret)
	}
	return &Callback{secret.New(words.URL), secret.New(words.Secret)}, nil
}

// parseURL reads a callback's URL. The error goes on after the field's name.
func parseURL(s string) (*url.URL, error) {
	switch {
	case s == "":
		return nil, errors.New("is missing: it takes a URL such as https://hooks.example.com/jobs")
	case len(s) > maxURL:
		return nil, errors.New("is too long: it takes at most 2048 bytes")
	case strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }):
		return nil, errors.New("has a space or a character outside ASCII: write %20 and the like, and the host in its xn-- form")
	}
	u, err := url.Parse(s)
	switch {
	case err != nil || u.Opaque != "": // err repeats s
		return nil, errors.New("is no URL: it takes one such as https://hooks.example.com/jobs")
	case u.Scheme != "https":
		return nil, errors.New("does not begin with https://, and results are sent over nothing else")
	case u.User != nil:
		return nil, errors.New("has a name or a password before its host: leave them out, and give a callback.secret, by which you know that it is us")
	case strings.Contains(s, "#"):
		return nil, errors.New("has a fragment, which is never sent: leave out # and what is behind it")
	case !validPort(u):
		return nil, errors.New("has an impossible port: it takes 1 to 65535, or none, which is 443")
	}
	return u, checkHost(u.Hostname())
}

func validPort(u *url.URL) bool {
	if u.Port() == "" {
		return !strings.HasSuffix(u.Host, ":")
	}
	n, err := strconv.ParseUint(u.Port(), 10, 16)
	return err == nil && n > 0
}

// checkHost refuses early what the Courier would refuse, or never find. It holds
// nothing: every name can be given a private address.
func checkHost(host string) error {
	if a, err := netip.ParseAddr(host); err == nil {
		if !Public(a) {
			return errors.New("has a private or reserved address: callbacks go to public ones alone")
		}
		return nil
	}
	labels := strings.Split(strings.TrimSuffix(strings.ToLower(host), "."), ".")
	last := labels[len(labels)-1]
	switch {
	case len(host) > 254 || !validLabels(labels):
		return errors.New("has no valid host: it takes a name such as hooks.example.com, or a public address")
	case last[0] >= '0' && last[0] <= '9':
		// No top-level domain begins so; resolvers take 127.1 and 0x7f.1 for addresses.
		return errors.New("has an address in an unusual form: write four decimal numbers, or a name")
	case len(labels) == 1 || isLocal(host):
		return errors.New("has a host that only a local network knows: callbacks go to public names alone")
	}
	return nil
}

// validLabels takes the underscores that some names have.
func validLabels(labels []string) bool {
	for _, l := range labels {
		if l == "" || len(l) > 63 || strings.Trim(l, "abcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			return false
		}
	}
	return true
}

// isLocal reports whether name is under one of the domains that are kept for
// hosts near by: RFC 6761 §6.3, RFC 6762, RFC 8375, and ICANN's resolution
// 2024.07.29.06 on .internal, where clouds have their metadata.
func isLocal(name string) bool {
	name = "." + strings.TrimSuffix(strings.ToLower(name), ".")
	for _, domain := range []string{".localhost", ".local", ".home.arpa", ".internal"} {
		if strings.HasSuffix(name, domain) {
			return true
		}
	}
	return false
}
