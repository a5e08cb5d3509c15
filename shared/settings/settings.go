// Package settings is every setting of Postern, read once, at start, strictly.
//
// The settings are the rows of one table (All): a name, its aliases, the
// default, what it takes. Parsing, the error messages, the README's table and
// .env.example all come from these rows, so they can't say different things.
//
// Values come from layers, the first of which that has a setting wins: flags,
// the environment, .env.local, .env, the deploy.api block of agents.yaml, then
// the default. An empty value is no value. Whoever needs a setting in order to
// find a lower layer (AGENTS_FILE tells where deploy.api stands) calls Parse
// twice. It may stop at the first call's faults: deploy.api could cure none of
// them, because it has no half of a pair that must be set together.
//
// Promises. A value that is not understood stops the start (P18): Parse reports
// every fault at once, one line each,
//
//	API_PORT: "80a" is no whole number; it takes a whole number from 0 to 65535, where 0 lets the system choose
//
// which is where the value stands, its fault, and the cure. No line repeats a
// secret, nor more of a URL than its scheme, host and port (P4). Nothing here
// reads a file, the clock or the network, and nothing is generated: without
// API_TOKEN Root is nil, and main makes one, once a deployment (I7).
//
// Only mains import this package; all others take their own Config.
package settings

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"postern/shared/auth"
	"postern/shared/secret"
)

// Settings is what a deployment was told, contract §6. Which values a field
// admits is its row of All.
type Settings struct {
	AuthDisabled bool            // API_AUTH
	Root         *secret.Digest  // API_TOKEN; nil: none configured
	Admin        *secret.Digest  // ADMIN_API_KEY; nil: none configured
	Clients      []secret.Digest // VALID_API_KEYS; no two of these credentials are the same

	Host           string // API_HOST: an IP address (IPv6 without brackets) or a host name
	Port           int    // API_PORT; 0: the system chooses
	RateLimit      int    // API_RATE_LIMIT, requests an hour; 0: no limit
	AllowedIPs     auth.Addresses
	TrustedProxies auth.Proxies
	CORSOrigins    []string // each as a browser sends it, or only "*"; nil: off
	TLSCert        string   // API_TLS_CERT, a path; set if and only if TLSKey is
	TLSKey         string   // API_TLS_KEY, a path

	AgentsFile    string        // a path
	DataDir       string        // a path
	Model         string        // MODEL, always "provider/name"
	OpenAIKey     secret.String // OPENAI_API_KEY; empty: none
	OpenAIBaseURL string        // without a slash at its end; "": OpenAI's own
	ChatTimeout   time.Duration // 1 s to 15 min
	SessionTTL    time.Duration // 1 min to 10 years

	LogLevel  slog.Level
	LogFormat string // "json", "text", or "": text on a terminal, else JSON

	TokenSecretARN string        // "": not on AWS
	TokenCache     time.Duration // TOKEN_CACHE_SECONDS, 1 s to 15 min
	TokenGrace     time.Duration // 0 to 30 d
	ModelKeyARN    string        // MODEL_API_KEY_SECRET_ARN; "": none
	BedrockARNs    []string      // BEDROCK_MODEL_ARNS, what IAM lets chat invoke; nil: nothing
	TableName      string        // a DynamoDB table; "": not on AWS
	JobsQueueURL   string        // "": not on AWS

	Warnings []string // to be shown at start, one line each
}

// Parse reads every setting from layers, the strongest first. Its error joins
// all faults (it has Unwrap() []error), one line each; the Settings are then
// the zero value.
func Parse(layers ...Layer) (Settings, error) {
	var s Settings
	var faults []error
	var told []string         // the layers' own warnings
	set := map[string]Entry{} // by the setting's name, where a layer has it
	for _, row := range table(&s) {
		entry, conflicts := row.find(layers)
		faults = append(faults, conflicts...)
		if entry.Text != "" {
			set[row.Name] = entry
		} else {
			entry = Entry{Text: row.Default, Origin: row.Name}
		}
		if entry.Warning != "" {
			told = append(told, entry.Warning)
		}
		if err := row.parse(entry); err != nil {
			faults = append(faults, err)
		}
	}
	faults = append(faults, together(s, set)...)
	if len(faults) > 0 {
		return Settings{}, errors.Join(faults...)
	}
	for _, layer := range layers {
		told = append(told, layer.Warnings...)
	}
	s.Warnings = append(warnings(s, set), told...)
	return s, nil
}

// Loopback reports whether Host is this machine alone. A name other than
// localhost is not, whatever it may resolve to.
func (s Settings) Loopback() bool {
	a, err := netip.ParseAddr(s.Host)
	return err == nil && a.IsLoopback() || strings.EqualFold(s.Host, "localhost")
}

// together finds the faults of settings that are well-formed each by itself.
func together(s Settings, set map[string]Entry) []error {
	var faults []error
	for _, pair := range [][2]string{{"API_TLS_CERT", "API_TLS_KEY"}, {"API_TLS_KEY", "API_TLS_CERT"}} {
		if set[pair[0]].Text != "" && set[pair[1]].Text == "" {
			faults = append(faults, fmt.Errorf("%s: it is set without %s; set both, or neither", set[pair[0]].Origin, pair[1]))
		}
	}
	if s.AuthDisabled && len(s.CORSOrigins) == 1 && s.CORSOrigins[0] == "*" {
		faults = append(faults, fmt.Errorf("%s: with * any web page could use the agents while authentication is disabled (%s); list the origins, or enable authentication",
			set["CORS_ORIGINS"].Origin, set["API_AUTH"].Origin))
	}
	configured := credentials(s, set)
	for i, c := range configured {
		for _, earlier := range configured[:i] {
			if c.digest.Equal(earlier.digest) {
				faults = append(faults, fmt.Errorf("%s: the same credential as %s; give each its own", c.origin, earlier.origin))
				break
			}
			// A client is known by its label, and what it keeps is kept under that.
			if c.digest.Label() == earlier.digest.Label() {
				faults = append(faults, fmt.Errorf("%s and %s: their digests begin alike, so they would be one caller; replace one of them", c.origin, earlier.origin))
				break
			}
		}
	}
	return faults
}

// strongLength is how many characters a token has at least to pass without a
// warning.
const strongLength = 16

// warnings tells what is allowed and unwise.
func warnings(s Settings, set map[string]Entry) []string {
	var list []string
	warn := func(format string, args ...any) { list = append(list, fmt.Sprintf(format, args...)) }

	if s.AuthDisabled {
		warn("%s: authentication is disabled; whoever reaches this server can use its agents", set["API_AUTH"].Origin)
	}
	if !s.Loopback() && s.TLSCert == "" {
		warn("%s: %s is reachable from beyond this machine and TLS is off, so tokens cross the network in clear; set API_TLS_CERT and API_TLS_KEY, or put a TLS proxy in front",
			set["API_HOST"].Origin, s.Host)
	}
	for _, c := range credentials(s, set) {
		if c.weak {
			warn("%s: a token under %d characters can be guessed; `openssl rand -base64 32` makes a good one", c.origin, strongLength)
		}
	}
	if _, chosen := set["MODEL"]; !chosen && !s.OpenAIKey.IsEmpty() {
		warn("%s: without MODEL it switches nothing on, agents that name no model stay on %s; MODEL=openai/gpt-4o-mini lets them use it", set["OPENAI_API_KEY"].Origin, s.Model)
	}
	return list
}

// credential is one configured credential, for what is said about it.
type credential struct {
	origin string
	digest secret.Digest
	weak   bool // given in clear, and short: a digest is longer than any bound
}

// credentials lists what is configured, in the order of the table.
func credentials(s Settings, set map[string]Entry) []credential {
	var list []credential
	add := func(origin, text string, digest secret.Digest) {
		list = append(list, credential{origin, digest, len(strings.TrimSpace(text)) < strongLength})
	}
	if root := set["API_TOKEN"]; s.Root != nil {
		add(root.Origin, root.Text, *s.Root)
	}
	if admin := set["ADMIN_API_KEY"]; s.Admin != nil {
		add(admin.Origin, admin.Text, *s.Admin)
	}
	clients := set["VALID_API_KEYS"]
	texts := strings.Split(clients.Text, ",")
	for i, digest := range s.Clients {
		add(fmt.Sprintf("%s: entry %d", clients.Origin, i+1), texts[i], digest)
	}
	return list
}
