package main

import (
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"strings"

	"postern/shared/secret"
)

// tokenVariable has the token for --url. It is no setting: it stands in no file.
const tokenVariable = "POSTERN_TOKEN"

// dial makes the client of a deployment. It sends nothing yet.
func dial(text string) (*client, error) {
	base, err := baseURL(text)
	if err != nil {
		return nil, fmt.Errorf("--url: %w", err)
	}
	token, err := tokenFor(base)
	if err != nil {
		return nil, err
	}
	return &client{
		transport: http.DefaultTransport,
		base:      base,
		token:     token,
		close:     func() error { return nil },
	}, nil
}

// baseURL reads the address of a deployment. Its errors repeat nothing of it:
// who writes a token into a URL finds it in no error.
func baseURL(text string) (string, error) {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Hostname() == "":
		return "", errors.New("it takes an address like https://abc123.execute-api.eu-central-1.amazonaws.com/prod or http://127.0.0.1:8080")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || strings.Contains(text, "#"):
		return "", errors.New("it has a user name, a password, a query or a fragment: leave it out; the token is read from " + tokenVariable)
	case u.Scheme == "http" && !isLoopback(u.Hostname()):
		return "", errors.New("a token would cross the network in clear: use https; http is for this machine alone (127.0.0.1, localhost)")
	}
	return strings.TrimRight(u.String(), "/"), nil
}

// isLoopback reports whether a URL's host is this machine.
func isLoopback(host string) bool {
	a, err := netip.ParseAddr(host)
	return err == nil && a.IsLoopback() || strings.EqualFold(host, "localhost")
}

// tokenFor is the environment's token, or what the user types.
func tokenFor(base string) (secret.String, error) {
	text, origin := strings.TrimSpace(os.Getenv(tokenVariable)), tokenVariable
	if text == "" {
		origin = "the token"
		typed, err := askHidden("Token for " + base + ": ")
		if err != nil {
			return secret.String{}, fmt.Errorf("no token for %s: %w; set %s", base, err, tokenVariable)
		}
		text = typed.Reveal()
	}
	if !secret.WellFormed(text) {
		return secret.String{}, fmt.Errorf("%s: %s", origin, malformed(text))
	}
	return secret.New(text), nil
}

// malformed says why text can be no token, and nothing of it.
func malformed(text string) string {
	switch {
	case text == "":
		return "it is empty"
	case len(text) > secret.MaxToken:
		return fmt.Sprintf("it is longer than the %d bytes that a token can have", secret.MaxToken)
	}
	return "it has a space or a character outside printable ASCII, which no token has"
}
