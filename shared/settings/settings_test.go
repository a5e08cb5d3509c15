package settings_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"postern/shared/secret"
	"postern/shared/settings"
)

// vars is an environment.
type vars map[string]string

func (v vars) layer() settings.Layer {
	return settings.Environment(func(name string) string { return v[name] })
}

const (
	long   = "a-token-that-is-long-enough" // no warning
	longer = "another-token-that-is-long-enough"

	// of "abc", FIPS 180-2 appendix B.1
	abcDigest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
)

var issued = "postern_" + strings.Repeat("a", 12) + "_" + strings.Repeat("b", 49)

// inside compares values by what they hold.
func inside() cmp.Options {
	return cmp.Options{
		cmp.Exporter(func(reflect.Type) bool { return true }),
		cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	}
}

func parse(t *testing.T, layers ...settings.Layer) settings.Settings {
	t.Helper()
	s, err := settings.Parse(layers...)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// P6, I1: nothing configured is authentication with no credential to pass it.
func TestDefaults(t *testing.T) {
	got := parse(t)
	want := settings.Settings{
		Host: "127.0.0.1", Port: 8080, RateLimit: 1000,
		AgentsFile: "agents.yaml", DataDir: ".postern", Model: "offline/eliza",
		ChatTimeout: 300 * time.Second, SessionTTL: 30 * 24 * time.Hour, LogLevel: slog.LevelInfo,
		TokenCache: 60 * time.Second, TokenGrace: 24 * time.Hour,
	}
	if diff := cmp.Diff(want, got, inside()); diff != "" {
		t.Error(diff)
	}
	if !got.AllowedIPs.All() || !got.Loopback() {
		t.Error("by default every address may ask, from this machine alone")
	}
	// I7: a second process with the same settings makes nothing up either.
	if again := parse(t); again.Root != nil {
		t.Error("a token came from nowhere")
	}
}

// P18: the start stops, and the message names the variable, the fault and the
// cure. No row may change without somebody having read the new message.
func TestBadSettings(t *testing.T) {
	const (
		token     = "; it takes a token of visible ASCII characters, or sha256: and the 64 hexadecimal digits of its digest"
		admin     = "; it takes a token of visible ASCII characters without a comma, or sha256: and the 64 hexadecimal digits of its digest"
		clients   = "; it takes tokens separated by commas, each in clear or as sha256: and the 64 hexadecimal digits of its digest"
		unset     = ", or `unset TOKEN` if it is not meant for Postern"
		bare      = "TOKEN: it is not a SHA-256 digest; it takes the bare 64 hexadecimal digits of one" + unset
		host      = "; it takes an IP address or a host name, without scheme, brackets and port (that is API_PORT)"
		port      = "; it takes a whole number from 0 to 65535, where 0 lets the system choose"
		rate      = "; it takes a whole number of requests an hour from 0 to 1000000000, where 0 is no limit"
		allowed   = "; it takes addresses and CIDR blocks separated by commas, or *"
		proxies   = "; it takes addresses and CIDR blocks separated by commas"
		noAddress = " is neither an address (192.0.2.7, 2001:db8::7), a CIDR block (192.0.2.0/24) nor *"
		cors      = "; it takes origins such as https://app.example.com separated by commas, or a single *"
		spelling  = "no browser sends it so; write %s (no path, no slash at the end)"
		url       = "; it takes an http or https URL without user, query and fragment, such as http://127.0.0.1:11434/v1"
		timeout   = "; it takes a duration from 1s to 900s, such as 90s or 5m"
		grace     = "; it takes 0, or a duration of at most 30d, such as 15m, 24h or 7d"
		cache     = "; it takes a whole number of seconds from 1 to 900"
		unsendble = "it has a space or a character outside printable ASCII, which no client could send"
	)
	for _, row := range []struct {
		env  vars
		want string
	}{
		{vars{"API_AUTH": "off"}, `API_AUTH: "off" is not one of its words; it takes enabled or disabled`},
		{vars{"API_AUTH": "false"}, `API_AUTH: "false" is not one of its words; it takes enabled or disabled`},
		{vars{"API_AUTH": "Disabled"}, `API_AUTH: "Disabled" is not one of its words; it takes enabled or disabled`},
		{vars{"API_AUTH": "disabled\n"}, `API_AUTH: "disabled\n" is not one of its words; it takes enabled or disabled`},
		{vars{"API_AUTH": strings.Repeat("x", 99)}, `API_AUTH: "` + strings.Repeat("x", 64) + `" is not one of its words; it takes enabled or disabled`},
		{vars{"PRAISONAI_API_AUTH": "no"}, `PRAISONAI_API_AUTH: "no" is not one of its words; it takes enabled or disabled`},

		// I5: what no client could send, or would never match, is refused here.
		{vars{"API_TOKEN": "pässword"}, "API_TOKEN: " + unsendble + token},
		{vars{"API_TOKEN": "two words"}, "API_TOKEN: " + unsendble + token},
		{vars{"API_TOKEN": "Bearer " + long}, "API_TOKEN: " + unsendble + token},
		{vars{"API_TOKEN": " \n"}, "API_TOKEN: it is white space only; it takes a token of visible ASCII characters, or sha256: and the 64 hexadecimal digits of its digest, or nothing at all"},
		{vars{"API_TOKEN": strings.Repeat("x", 513)}, "API_TOKEN: it has 513 bytes, at most 512 are allowed" + token},
		{vars{"API_TOKEN": "sha256:abc"}, "API_TOKEN: sha256: must be followed by exactly 64 hexadecimal digits, here are 3 characters" + token},
		{vars{"API_TOKEN": "SHA256:" + abcDigest}, "API_TOKEN: sha256: is written in small letters" + token},
		{vars{"API_TOKEN": issued}, "API_TOKEN: it has the form of an issued key, which works without being configured" + token},
		{vars{"API_TOKEN": issued + "\n"}, "API_TOKEN: it has the form of an issued key, which works without being configured" + token},
		{vars{"ELIZA_SERVER_AUTH_TOKEN": "é"}, "ELIZA_SERVER_AUTH_TOKEN: " + unsendble + token},
		{vars{"TOKEN": "abc"}, bare},
		{vars{"TOKEN": " "}, bare},
		{vars{"TOKEN": "sha256:" + abcDigest}, bare},
		{vars{"TOKEN": abcDigest[1:]}, bare},
		{vars{"TOKEN": "g" + abcDigest[1:]}, bare},
		{vars{"TOKEN": "ghp_somebody's", "API_TOKEN": long}, bare},
		{vars{"TOKEN": "ghp_somebody's", "API_TOKEN": "é"}, bare + "\nAPI_TOKEN: " + unsendble + token},
		{vars{"TOKEN": abcDigest, "API_TOKEN": "abd"}, "API_TOKEN and TOKEN: two names of one setting with different values; keep one of them" + unset},
		{vars{"TOKEN": abcDigest, "PRAISONAI_API_TOKEN": "abd"}, "PRAISONAI_API_TOKEN and TOKEN: two names of one setting with different values; keep one of them" + unset},
		{vars{"API_TOKEN": "abc", "PRAISONAI_API_TOKEN": "abd"}, "API_TOKEN and PRAISONAI_API_TOKEN: two names of one setting with different values; keep one of them"},
		{vars{"API_PORT": "1", "PRAISONAI_API_PORT": "2"}, "API_PORT and PRAISONAI_API_PORT: two names of one setting with different values; keep one of them"},
		{vars{"ADMIN_API_KEY": issued}, "ADMIN_API_KEY: it has the form of an issued key, which works without being configured" + admin},
		{vars{"ADMIN_API_KEY": "one,two"}, "ADMIN_API_KEY: it has a comma in it" + admin},
		{vars{"VALID_API_KEYS": "a,,b"}, "VALID_API_KEYS: entry 2: it is empty" + clients},
		{vars{"VALID_API_KEYS": "a,"}, "VALID_API_KEYS: entry 2: it is empty" + clients},
		{vars{"VALID_API_KEYS": "a, b c"}, "VALID_API_KEYS: entry 2: " + unsendble + clients},
		{vars{"VALID_API_KEYS": "a," + issued}, "VALID_API_KEYS: entry 2: it has the form of an issued key, which works without being configured" + clients},
		{vars{"VALID_API_KEYS": "abc, abc"}, "VALID_API_KEYS: entry 2: the same credential as VALID_API_KEYS: entry 1; give each its own"},
		{vars{"VALID_API_KEYS": "x,sha256:cd501bd8" + abcDigest[8:] + ",sha256:CD501BD8" + strings.Repeat("0", 56)},
			"VALID_API_KEYS: entry 3 and VALID_API_KEYS: entry 2: their digests begin alike, so they would be one caller; replace one of them"},
		{vars{"API_TOKEN": "abc", "ADMIN_API_KEY": "sha256:" + abcDigest}, "ADMIN_API_KEY: the same credential as API_TOKEN; give each its own"},
		{vars{"TOKEN": abcDigest, "VALID_API_KEYS": "x, abc"}, "VALID_API_KEYS: entry 2: the same credential as TOKEN; give each its own"},
		{vars{"ADMIN_API_KEY": "abc", "VALID_API_KEYS": "sha256:" + strings.ToUpper(abcDigest)}, "VALID_API_KEYS: entry 1: the same credential as ADMIN_API_KEY; give each its own"},

		{vars{"API_HOST": "http://localhost"}, "API_HOST: it has a scheme in it" + host},
		{vars{"API_HOST": "localhost:80"}, `API_HOST: "localhost:80" has a port in it` + host},
		{vars{"API_HOST": "[::1]:80"}, `API_HOST: "[::1]:80" has a port in it` + host},
		{vars{"API_HOST": "[::1]"}, `API_HOST: "[::1]" is neither an IP address nor a host name` + host},
		{vars{"API_HOST": "*"}, `API_HOST: "*" is neither an IP address nor a host name` + host},
		{vars{"API_HOST": "127.0.0.256"}, `API_HOST: "127.0.0.256" is neither an IP address nor a host name` + host},
		{vars{"API_HOST": "-a.example"}, `API_HOST: "-a.example" is neither an IP address nor a host name` + host},
		{vars{"API_PORT": "80a"}, `API_PORT: "80a" is no whole number` + port},
		{vars{"API_PORT": "+80"}, `API_PORT: "+80" is no whole number` + port},
		{vars{"API_PORT": ":80"}, `API_PORT: ":80" is no whole number` + port},
		{vars{"API_PORT": "65536"}, `API_PORT: "65536" is out of range` + port},

		// I9: a limit that is no number is no start.
		{vars{"API_RATE_LIMIT": "unlimited"}, `API_RATE_LIMIT: "unlimited" is no whole number` + rate},
		{vars{"API_RATE_LIMIT": "1e3"}, `API_RATE_LIMIT: "1e3" is no whole number` + rate},
		{vars{"API_RATE_LIMIT": "100/h"}, `API_RATE_LIMIT: "100/h" is no whole number` + rate},
		{vars{"API_RATE_LIMIT": "-1"}, `API_RATE_LIMIT: "-1" is out of range` + rate},
		{vars{"API_RATE_LIMIT": "1000000001"}, `API_RATE_LIMIT: "1000000001" is out of range` + rate},
		{vars{"API_RATE_LIMIT": "99999999999999999999"}, `API_RATE_LIMIT: "99999999999999999999" is out of range` + rate},

		// I8: a list that means something else than it looks is refused.
		{vars{"ALLOWED_IPS": ","}, "ALLOWED_IPS: entry 1: it is empty" + allowed},
		{vars{"ALLOWED_IPS": " "}, "ALLOWED_IPS: it is white space only" + allowed + ", or nothing at all"},
		{vars{"ALLOWED_IPS": "192.0.2.1, 192.0.2.300"}, `ALLOWED_IPS: "192.0.2.300"` + noAddress + allowed},
		{vars{"ALLOWED_IPS": "192.0.2.0/33"}, `ALLOWED_IPS: "192.0.2.0/33"` + noAddress + allowed},
		{vars{"ALLOWED_IPS": "192.0.2.1 192.0.2.2"}, `ALLOWED_IPS: "192.0.2.1 192.0.2.2"` + noAddress + allowed},
		{vars{"TRUSTED_PROXIES": "proxy.example"}, `TRUSTED_PROXIES: "proxy.example"` + noAddress + proxies},
		{vars{"TRUSTED_PROXIES": "*"}, "TRUSTED_PROXIES: * would let every client choose its own address: list the proxies" + proxies},

		{vars{"CORS_ORIGINS": "https://app.example.com/"}, "CORS_ORIGINS: entry 1: " + fmt.Sprintf(spelling, "https://app.example.com") + cors},
		{vars{"CORS_ORIGINS": "https://a.example, https://b.example/x?y"}, "CORS_ORIGINS: entry 2: " + fmt.Sprintf(spelling, "https://b.example") + cors},
		{vars{"CORS_ORIGINS": "https://App.example.com"}, "CORS_ORIGINS: entry 1: " + fmt.Sprintf(spelling, "https://app.example.com") + cors},
		{vars{"CORS_ORIGINS": "https://a.example:443"}, "CORS_ORIGINS: entry 1: " + fmt.Sprintf(spelling, "https://a.example") + cors},
		{vars{"CORS_ORIGINS": "http://[::1]:3000/"}, "CORS_ORIGINS: entry 1: " + fmt.Sprintf(spelling, "http://[::1]:3000") + cors},
		{vars{"CORS_ORIGINS": "https://me@a.example"}, "CORS_ORIGINS: entry 1: " + fmt.Sprintf(spelling, "https://a.example") + cors},
		{vars{"CORS_ORIGIN": "app.example.com"}, "CORS_ORIGIN: entry 1: it is no http or https origin" + cors},
		{vars{"CORS_ORIGINS": "localhost:3000"}, "CORS_ORIGINS: entry 1: it is no http or https origin" + cors},
		{vars{"CORS_ORIGINS": "null"}, "CORS_ORIGINS: entry 1: it is no http or https origin" + cors},
		{vars{"CORS_ORIGINS": "https://*.example.com"}, "CORS_ORIGINS: entry 1: it is no http or https origin" + cors},
		{vars{"CORS_ORIGINS": "https://a.example:99999"}, "CORS_ORIGINS: entry 1: it is no http or https origin" + cors},
		{vars{"CORS_ORIGINS": "ftp://a.example"}, "CORS_ORIGINS: entry 1: it is no http or https origin" + cors},
		{vars{"CORS_ORIGINS": "https://a.example,*"}, "CORS_ORIGINS: entry 2: * stands beside other entries" + cors},
		{vars{"CORS_ORIGINS": "https://a.example,"}, "CORS_ORIGINS: entry 2: it is empty" + cors},
		{vars{"CORS_ORIGINS": "*", "API_AUTH": "disabled"}, "CORS_ORIGINS: with * any web page could use the agents while authentication is disabled (API_AUTH); list the origins, or enable authentication"},

		{vars{"API_TLS_CERT": "cert.pem"}, "API_TLS_CERT: it is set without API_TLS_KEY; set both, or neither"},
		{vars{"API_TLS_KEY": "key.pem"}, "API_TLS_KEY: it is set without API_TLS_CERT; set both, or neither"},
		{vars{"API_TLS_KEY": "key.pem\n", "API_TLS_CERT": "cert.pem"}, `API_TLS_KEY: "key.pem\n" has a line break or another control character in it; it takes the path of a PEM file, together with API_TLS_CERT`},
		{vars{"AGENTS_FILE": "a\x00b"}, `AGENTS_FILE: "a\x00b" has a line break or another control character in it; it takes the path of a file`},
		{vars{"DATA_DIR": "\t"}, "DATA_DIR: it is white space only; it takes the path of a folder, or nothing at all"},
		{vars{"MODEL": "openai/"}, `MODEL: "openai/" is no model's name; it takes provider/name such as openai/gpt-4o-mini; a bare name is one of openai/`},
		{vars{"MODEL": "gpt 4"}, `MODEL: "gpt 4" is no model's name; it takes provider/name such as openai/gpt-4o-mini; a bare name is one of openai/`},
		{vars{"OPENAI_API_KEY": "sk-ключ"}, "OPENAI_API_KEY: it has a space or a character outside printable ASCII; it takes the key as its provider shows it, visible ASCII characters"},
		{vars{"OPENAI_BASE_URL": "api.openai.com/v1"}, "OPENAI_BASE_URL: it is no http or https URL" + url},
		{vars{"OPENAI_BASE_URL": "https://"}, "OPENAI_BASE_URL: it is no http or https URL" + url},
		{vars{"OPENAI_BASE_URL": "https://a.example/v 1"}, "OPENAI_BASE_URL: it is no http or https URL" + url},
		{vars{"OPENAI_BASE_URL": "https://a.example:0/v1"}, "OPENAI_BASE_URL: it is no http or https URL" + url},
		{vars{"OPENAI_BASE_URL": "https://me:secret@a.example"}, "OPENAI_BASE_URL: it has a user name or a password in it" + url},
		{vars{"OPENAI_BASE_URL": "https://a.example/?key=secret"}, "OPENAI_BASE_URL: it has a query or a fragment" + url},
		{vars{"CHAT_TIMEOUT": "300"}, `CHAT_TIMEOUT: "300" is no duration` + timeout},
		{vars{"CHAT_TIMEOUT": "1.5m"}, `CHAT_TIMEOUT: "1.5m" is no duration` + timeout},
		{vars{"CHAT_TIMEOUT": "1h30m"}, `CHAT_TIMEOUT: "1h30m" is no duration` + timeout},
		{vars{"CHAT_TIMEOUT": "-5s"}, `CHAT_TIMEOUT: "-5s" is no duration` + timeout},
		{vars{"CHAT_TIMEOUT": "s"}, `CHAT_TIMEOUT: "s" is no duration` + timeout},
		{vars{"CHAT_TIMEOUT": "0s"}, `CHAT_TIMEOUT: "0s" is out of range` + timeout},
		{vars{"CHAT_TIMEOUT": "901s"}, `CHAT_TIMEOUT: "901s" is out of range` + timeout},
		{vars{"CHAT_TIMEOUT": "1d"}, `CHAT_TIMEOUT: "1d" is out of range` + timeout},
		{vars{"CHAT_TIMEOUT": "99999999999999999999s"}, `CHAT_TIMEOUT: "99999999999999999999s" is out of range` + timeout},
		{vars{"CHAT_TIMEOUT": "213503982334602d"}, `CHAT_TIMEOUT: "213503982334602d" is out of range` + timeout}, // 2^64 ns and a bit
		{vars{"SESSION_TTL": "59s"}, `SESSION_TTL: "59s" is out of range; it takes a duration from 1m to 3650d, such as 12h or 30d`},
		{vars{"SESSION_TTL": "3651d"}, `SESSION_TTL: "3651d" is out of range; it takes a duration from 1m to 3650d, such as 12h or 30d`},

		{vars{"LOG_LEVEL": "INFO"}, `LOG_LEVEL: "INFO" is not one of its words; it takes debug, info, warn or error`},
		{vars{"LOG_FORMAT": "logfmt"}, `LOG_FORMAT: "logfmt" is not one of its words; it takes json or text`},
		{vars{"TOKEN_SECRET_ARN": long}, "TOKEN_SECRET_ARN: it is no such ARN; it takes the ARN of a Secrets Manager secret"},
		{vars{"TOKEN_CACHE_SECONDS": "60s"}, `TOKEN_CACHE_SECONDS: "60s" is no whole number` + cache},
		{vars{"TOKEN_CACHE_SECONDS": "0"}, `TOKEN_CACHE_SECONDS: "0" is out of range` + cache},
		{vars{"TOKEN_CACHE_SECONDS": "901"}, `TOKEN_CACHE_SECONDS: "901" is out of range` + cache},
		{vars{"TOKEN_GRACE": "31d"}, `TOKEN_GRACE: "31d" is out of range` + grace},
		{vars{"TOKEN_GRACE": "24"}, `TOKEN_GRACE: "24" is no duration` + grace},
		{vars{"BEDROCK_MODEL_ARNS": "arn:aws:bedrock:*, amazon.nova-lite-v1:0"}, `BEDROCK_MODEL_ARNS: entry 2: "amazon.nova-lite-v1:0" is no ARN; it takes ARNs of Bedrock models and inference profiles separated by commas, with * and ? as in IAM`},
		{vars{"BEDROCK_MODEL_ARNS": "arn:aws:bedrock:eu-west-1::a model"}, `BEDROCK_MODEL_ARNS: entry 1: "arn:aws:bedrock:eu-west-1::a model" is no ARN; it takes ARNs of Bedrock models and inference profiles separated by commas, with * and ? as in IAM`},
		{vars{"TABLE_NAME": "a/b"}, `TABLE_NAME: "a/b" is no table's name; it takes a DynamoDB table's name, 3 to 255 letters, digits and characters of _.-`},
		{vars{"TABLE_NAME": strings.Repeat("t", 256)}, `TABLE_NAME: "` + strings.Repeat("t", 64) + `" is no table's name; it takes a DynamoDB table's name, 3 to 255 letters, digits and characters of _.-`},
		{vars{"JOBS_QUEUE_URL": "jobs"}, "JOBS_QUEUE_URL: it is no http or https URL; it takes the URL of an SQS queue"},

		// All of them at once, in the order of the table.
		{vars{"LOG_FORMAT": "xml", "API_PORT": "x", "API_TLS_KEY": "k"},
			`API_PORT: "x" is no whole number` + port + "\n" +
				`LOG_FORMAT: "xml" is not one of its words; it takes json or text` + "\n" +
				"API_TLS_KEY: it is set without API_TLS_CERT; set both, or neither"},
	} {
		s, err := settings.Parse(row.env.layer())
		if err == nil {
			t.Errorf("%q: accepted", row.env)
			continue
		}
		if diff := cmp.Diff(row.want, err.Error()); diff != "" {
			t.Errorf("%q:\n%s", row.env, diff)
		}
		if s.Host != "" || s.ChatTimeout != 0 {
			t.Errorf("%q: settings came along with the fault", row.env)
		}
	}
}

func TestGoodSettings(t *testing.T) {
	var (
		abc  = secret.DigestOf("abc")
		root = secret.DigestOf(long)
	)
	for _, row := range []struct {
		about string
		env   vars
		got   func(settings.Settings) any
		want  any
	}{
		{"authentication on", vars{"API_AUTH": "enabled"}, func(s settings.Settings) any { return s.AuthDisabled }, false},
		{"authentication off", vars{"API_AUTH": "disabled"}, func(s settings.Settings) any { return s.AuthDisabled }, true},
		{"a token", vars{"API_TOKEN": long}, func(s settings.Settings) any { return s.Root }, &root},
		{"I5: a newline after a token", vars{"API_TOKEN": " " + long + "\r\n"}, func(s settings.Settings) any { return s.Root }, &root},
		{"a digest", vars{"API_TOKEN": "sha256:" + abcDigest}, func(s settings.Settings) any { return s.Root }, &abc},
		{"I5: a digest in capitals", vars{"API_TOKEN": "sha256:" + strings.ToUpper(abcDigest) + "\n"}, func(s settings.Settings) any { return s.Root }, &abc},
		{"txtai's digest", vars{"TOKEN": abcDigest}, func(s settings.Settings) any { return s.Root }, &abc},
		{"I5: txtai's digest in capitals", vars{"TOKEN": strings.ToUpper(abcDigest) + "\n"}, func(s settings.Settings) any { return s.Root }, &abc},
		{"one credential, in clear and as txtai's digest", vars{"API_TOKEN": "abc", "TOKEN": abcDigest}, func(s settings.Settings) any { return s.Root }, &abc},
		{"one credential under all its names", vars{"API_TOKEN": "abc", "PRAISONAI_API_TOKEN": "abc\n", "ELIZA_SERVER_AUTH_TOKEN": "sha256:" + abcDigest, "TOKEN": abcDigest}, func(s settings.Settings) any { return s.Root }, &abc},
		{"an admin's key", vars{"ADMIN_API_KEY": long}, func(s settings.Settings) any { return s.Admin }, &root},
		{"clients' keys with spaces around", vars{"VALID_API_KEYS": " abc , " + long + "\n"}, func(s settings.Settings) any { return s.Clients }, []secret.Digest{abc, root}},
		{"clients' digests", vars{"VALID_API_KEYS": "sha256:" + abcDigest}, func(s settings.Settings) any { return s.Clients }, []secret.Digest{abc}},

		{"an IPv6 host", vars{"API_HOST": "::1"}, func(s settings.Settings) any { return s.Host }, "::1"},
		{"a host by name", vars{"API_HOST": "localhost"}, func(s settings.Settings) any { return s.Host }, "localhost"},
		{"a container's name", vars{"API_HOST": "my_api-1.internal"}, func(s settings.Settings) any { return s.Host }, "my_api-1.internal"},
		{"the system chooses a port", vars{"API_PORT": "0"}, func(s settings.Settings) any { return s.Port }, 0},
		{"the last port", vars{"API_PORT": "65535"}, func(s settings.Settings) any { return s.Port }, 65535},
		{"no limit", vars{"API_RATE_LIMIT": "0"}, func(s settings.Settings) any { return s.RateLimit }, 0},
		{"the largest limit", vars{"API_RATE_LIMIT": "1000000000"}, func(s settings.Settings) any { return s.RateLimit }, 1_000_000_000},
		{"I8: an empty allow-list is none", vars{"ALLOWED_IPS": ""}, func(s settings.Settings) any { return s.AllowedIPs.All() }, true},
		{"I8: spaces around addresses", vars{"ALLOWED_IPS": " 198.51.100.1 , 192.0.2.0/24 "}, func(s settings.Settings) any { return s.AllowedIPs.Contain(netip.MustParseAddr("192.0.2.9")) }, true},
		{"I8: an address outside the list", vars{"ALLOWED_IPS": " 198.51.100.1 , 192.0.2.0/24 "}, func(s settings.Settings) any { return s.AllowedIPs.Contain(netip.MustParseAddr("192.0.3.9")) }, false},
		{"I8: a trusted proxy's word", vars{"TRUSTED_PROXIES": "127.0.0.1"}, func(s settings.Settings) any {
			return s.TrustedProxies.Client(netip.MustParseAddr("127.0.0.1"), []string{"192.0.2.1"}, nil)
		}, netip.MustParseAddr("192.0.2.1")},
		{"every origin", vars{"CORS_ORIGINS": " * "}, func(s settings.Settings) any { return s.CORSOrigins }, []string{"*"}},
		{"origins", vars{"CORS_ORIGINS": "https://app.example.com, http://localhost:3000,http://[::1]:3000"}, func(s settings.Settings) any { return s.CORSOrigins }, []string{"https://app.example.com", "http://localhost:3000", "http://[::1]:3000"}},
		{"an origin without authentication", vars{"CORS_ORIGINS": "https://a.example", "API_AUTH": "disabled"}, func(s settings.Settings) any { return s.CORSOrigins }, []string{"https://a.example"}},
		{"TLS", vars{"API_TLS_CERT": "my cert.pem", "API_TLS_KEY": "k.pem"}, func(s settings.Settings) any { return [2]string{s.TLSCert, s.TLSKey} }, [2]string{"my cert.pem", "k.pem"}},
		{"another agents.yaml", vars{"AGENTS_FILE": "/etc/agents.yml"}, func(s settings.Settings) any { return s.AgentsFile }, "/etc/agents.yml"},
		{"another data folder", vars{"DATA_DIR": "/var/lib/postern"}, func(s settings.Settings) any { return s.DataDir }, "/var/lib/postern"},
		{"a bare model is OpenAI's", vars{"MODEL": "gpt-4o-mini"}, func(s settings.Settings) any { return s.Model }, "openai/gpt-4o-mini"},
		{"a model with its provider", vars{"MODEL": "bedrock/eu.amazon.nova-lite-v1:0"}, func(s settings.Settings) any { return s.Model }, "bedrock/eu.amazon.nova-lite-v1:0"},
		{"a provider's key, trimmed", vars{"OPENAI_API_KEY": "sk-1\n"}, func(s settings.Settings) any { return s.OpenAIKey.Reveal() }, "sk-1"},
		{"another provider's URL", vars{"OPENAI_BASE_URL": "http://127.0.0.1:11434/v1/"}, func(s settings.Settings) any { return s.OpenAIBaseURL }, "http://127.0.0.1:11434/v1"},
		{"seconds", vars{"CHAT_TIMEOUT": "900s"}, func(s settings.Settings) any { return s.ChatTimeout }, 15 * time.Minute},
		{"minutes", vars{"CHAT_TIMEOUT": "5m"}, func(s settings.Settings) any { return s.ChatTimeout }, 5 * time.Minute},
		{"hours", vars{"TOKEN_GRACE": "48h"}, func(s settings.Settings) any { return s.TokenGrace }, 48 * time.Hour},
		{"days", vars{"TOKEN_GRACE": "30d"}, func(s settings.Settings) any { return s.TokenGrace }, 720 * time.Hour},
		{"a conversation's life", vars{"SESSION_TTL": "12h"}, func(s settings.Settings) any { return s.SessionTTL }, 12 * time.Hour},
		{"no grace", vars{"TOKEN_GRACE": "0"}, func(s settings.Settings) any { return s.TokenGrace }, time.Duration(0)},
		{"no grace, with a unit", vars{"TOKEN_GRACE": "0s"}, func(s settings.Settings) any { return s.TokenGrace }, time.Duration(0)},
		{"the token's cache", vars{"TOKEN_CACHE_SECONDS": "1"}, func(s settings.Settings) any { return s.TokenCache }, time.Second},
		{"a log level", vars{"LOG_LEVEL": "debug"}, func(s settings.Settings) any { return s.LogLevel }, slog.LevelDebug},
		{"a log format", vars{"LOG_FORMAT": "text"}, func(s settings.Settings) any { return s.LogFormat }, "text"},
		{"a secret's ARN", vars{"TOKEN_SECRET_ARN": "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:postern/token-AbCdEf"}, func(s settings.Settings) any { return s.TokenSecretARN }, "arn:aws-cn:secretsmanager:cn-north-1:123456789012:secret:postern/token-AbCdEf"},
		{"models of Bedrock", vars{"BEDROCK_MODEL_ARNS": "arn:aws:bedrock:*::foundation-model/*, arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0"},
			func(s settings.Settings) any { return s.BedrockARNs }, []string{"arn:aws:bedrock:*::foundation-model/*", "arn:aws:bedrock:eu-west-1:123456789012:inference-profile/eu.amazon.nova-lite-v1:0"}},
		{"all of Bedrock", vars{"BEDROCK_MODEL_ARNS": "*"}, func(s settings.Settings) any { return s.BedrockARNs }, []string{"*"}},
		{"a table", vars{"TABLE_NAME": "postern-Table_1.x"}, func(s settings.Settings) any { return s.TableName }, "postern-Table_1.x"},
		{"a queue", vars{"JOBS_QUEUE_URL": "https://sqs.eu-west-1.amazonaws.com/1/jobs"}, func(s settings.Settings) any { return s.JobsQueueURL }, "https://sqs.eu-west-1.amazonaws.com/1/jobs"},
	} {
		t.Run(row.about, func(t *testing.T) {
			if diff := cmp.Diff(row.want, row.got(parse(t, row.env.layer())), inside()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Every alias of contract §6 is its setting, in an environment and in a file.
func TestAliases(t *testing.T) {
	for alias, name := range map[string]string{
		"PRAISONAI_API_AUTH":      "API_AUTH",
		"PRAISONAI_API_TOKEN":     "API_TOKEN",
		"ELIZA_SERVER_AUTH_TOKEN": "API_TOKEN",
		"TOKEN":                   "API_TOKEN",
		"PRAISONAI_API_HOST":      "API_HOST",
		"PRAISONAI_API_PORT":      "API_PORT",
		"CORS_ORIGIN":             "CORS_ORIGINS",
	} {
		value := map[string]string{"API_AUTH": "disabled", "API_TOKEN": "sha256:" + abcDigest, "API_HOST": "::1",
			"API_PORT": "9", "CORS_ORIGINS": "https://a.example"}[name]
		want := parse(t, vars{name: value}.layer())
		want.Warnings = nil
		for _, layer := range []func(vars) settings.Layer{
			vars.layer,
			func(v vars) settings.Layer { return settings.Dotenv(".env", v) },
		} {
			aliased := value
			if alias == "TOKEN" {
				aliased = abcDigest
			}
			got := parse(t, layer(vars{alias: aliased}))
			got.Warnings = nil
			if diff := cmp.Diff(want, got, inside()); diff != "" {
				t.Errorf("%s is not %s:\n%s", alias, name, diff)
			}
			both := parse(t, layer(vars{alias: aliased, name: value}))
			both.Warnings = nil
			if diff := cmp.Diff(want, both, inside()); diff != "" {
				t.Errorf("%s beside %s:\n%s", alias, name, diff)
			}
		}
	}
	var total int
	for _, s := range settings.All() {
		total += len(s.Aliases)
	}
	if total != 7 {
		t.Errorf("the table has %d aliases, this test 7", total)
	}
}

func TestPrecedence(t *testing.T) {
	flags := func(text string) settings.Layer {
		return settings.Entries(map[string]settings.Entry{"API_PORT": {Text: text, Origin: "--port"}})
	}
	deploy := func(text string) settings.Layer {
		return settings.Entries(map[string]settings.Entry{"API_PORT": {Text: text, Origin: "agents.yaml:12: deploy.api.port"}})
	}
	env := func(text string) settings.Layer { return vars{"API_PORT": text}.layer() }
	local := func(text string) settings.Layer {
		return settings.Dotenv(".env.local", vars{"PRAISONAI_API_PORT": text})
	}
	dotenv := func(text string) settings.Layer { return settings.Dotenv(".env", vars{"API_PORT": text}) }

	const cure = ` is no whole number; it takes a whole number from 0 to 65535, where 0 lets the system choose`
	for _, row := range []struct {
		about  string
		layers []settings.Layer
		want   int
		fault  string
	}{
		{"a flag beats all", []settings.Layer{flags("1"), env("2"), local("3"), dotenv("4"), deploy("5")}, 1, ""},
		{"an empty flag is none", []settings.Layer{flags(""), env("2"), local("3"), dotenv("4"), deploy("5")}, 2, ""},
		{"an alias in a stronger layer beats the name in a weaker one", []settings.Layer{flags(""), env(""), local("3"), dotenv("4"), deploy("5")}, 3, ""},
		{"a file of variables beats agents.yaml", []settings.Layer{flags(""), env(""), local(""), dotenv("4"), deploy("5")}, 4, ""},
		{"agents.yaml beats the default", []settings.Layer{flags(""), env(""), local(""), dotenv(""), deploy("5")}, 5, ""},
		{"the default", []settings.Layer{flags(""), env(""), local(""), dotenv(""), deploy("")}, 8080, ""},
		{"no layer at all", nil, 8080, ""},
		{"what is not in force is not read", []settings.Layer{flags("1"), env("x")}, 1, ""},
		{"a flag is named", []settings.Layer{flags("x")}, 0, `--port: "x"` + cure},
		{"a file is named", []settings.Layer{env(""), dotenv("x")}, 0, `.env: API_PORT: "x"` + cure},
		{"an alias in a file is named", []settings.Layer{local("x")}, 0, `.env.local: PRAISONAI_API_PORT: "x"` + cure},
		{"a line is named", []settings.Layer{deploy("x")}, 0, `agents.yaml:12: deploy.api.port: "x"` + cure},
		{"an entry without origin", []settings.Layer{settings.Entries(map[string]settings.Entry{"API_PORT": {Text: "x"}})}, 0, `API_PORT: "x"` + cure},
	} {
		s, err := settings.Parse(row.layers...)
		switch {
		case row.fault == "" && err != nil:
			t.Errorf("%s: %v", row.about, err)
		case row.fault != "" && (err == nil || err.Error() != row.fault):
			t.Errorf("%s: got %v, want %s", row.about, err, row.fault)
		case s.Port != row.want:
			t.Errorf("%s: port %d, want %d", row.about, s.Port, row.want)
		}
	}
}

func TestWarnings(t *testing.T) {
	const (
		noAuth = "API_AUTH: authentication is disabled; whoever reaches this server can use its agents"
		beyond = "API_HOST: %s is reachable from beyond this machine and TLS is off, so tokens cross the network in clear; set API_TLS_CERT and API_TLS_KEY, or put a TLS proxy in front"
		weak   = "%s: a token under 16 characters can be guessed; `openssl rand -base64 32` makes a good one"
		noUse  = "OPENAI_API_KEY: without MODEL it switches nothing on, agents that name no model stay on offline/eliza; MODEL=openai/gpt-4o-mini lets them use it"
	)
	authToken := settings.Entries(map[string]settings.Entry{"API_TOKEN": {Text: "short", Origin: "agents.yaml:9: deploy.api.auth_token"}},
		"agents.yaml:9: deploy.api.auth_token: a secret in a file")
	corsEnabled := settings.Entries(map[string]settings.Entry{"CORS_ORIGINS": {Text: "*", Origin: "agents.yaml:7: deploy.api.cors_enabled", Warning: "any page may ask"}})

	for _, row := range []struct {
		about  string
		layers []settings.Layer
		want   []string
	}{
		{"nothing to say", []settings.Layer{vars{"API_TOKEN": long, "ADMIN_API_KEY": longer}.layer()}, nil},
		{"authentication disabled", []settings.Layer{vars{"PRAISONAI_API_AUTH": "disabled"}.layer()}, []string{"PRAISONAI_" + noAuth}},
		{"every address, without TLS", []settings.Layer{vars{"API_HOST": "0.0.0.0"}.layer()}, []string{fmt.Sprintf(beyond, "0.0.0.0")}},
		{"a name, without TLS", []settings.Layer{vars{"API_HOST": "api.example"}.layer()}, []string{fmt.Sprintf(beyond, "api.example")}},
		{"every address, with TLS", []settings.Layer{vars{"API_HOST": "::", "API_TLS_CERT": "c", "API_TLS_KEY": "k"}.layer()}, nil},
		{"another loopback address", []settings.Layer{vars{"API_HOST": "127.1.2.3"}.layer()}, nil},
		{"a mapped loopback address", []settings.Layer{vars{"API_HOST": "::ffff:127.0.0.1"}.layer()}, nil},
		{"localhost", []settings.Layer{vars{"API_HOST": "LocalHost"}.layer()}, nil},
		{"15 characters", []settings.Layer{vars{"API_TOKEN": "123456789012345 \n"}.layer()}, []string{fmt.Sprintf(weak, "API_TOKEN")}},
		{"16 characters", []settings.Layer{vars{"API_TOKEN": "1234567890123456"}.layer()}, nil},
		{"each short token by its place", []settings.Layer{vars{"ELIZA_SERVER_AUTH_TOKEN": "a", "ADMIN_API_KEY": "b", "VALID_API_KEYS": long + ", c"}.layer()},
			[]string{fmt.Sprintf(weak, "ELIZA_SERVER_AUTH_TOKEN"), fmt.Sprintf(weak, "ADMIN_API_KEY"), fmt.Sprintf(weak, "VALID_API_KEYS: entry 2")}},
		{"a digest tells no length", []settings.Layer{vars{"API_TOKEN": "sha256:" + abcDigest}.layer()}, nil},
		{"nor does txtai's", []settings.Layer{vars{"TOKEN": abcDigest}.layer()}, nil},
		{"but the same token in clear beside it does", []settings.Layer{vars{"TOKEN": abcDigest, "API_TOKEN": "abc"}.layer()}, []string{fmt.Sprintf(weak, "API_TOKEN")}},
		{"a key without a model", []settings.Layer{vars{"OPENAI_API_KEY": "sk-1"}.layer()}, []string{noUse}},
		{"a key with a model", []settings.Layer{vars{"OPENAI_API_KEY": "sk-1", "MODEL": "gpt-4o"}.layer()}, nil},
		{"a key, offline by choice", []settings.Layer{vars{"OPENAI_API_KEY": "sk-1", "MODEL": "offline/eliza"}.layer()}, nil},
		{"a token in a file", []settings.Layer{authToken},
			[]string{fmt.Sprintf(weak, "agents.yaml:9: deploy.api.auth_token"), "agents.yaml:9: deploy.api.auth_token: a secret in a file"}},
		{"a token in a file, not in force", []settings.Layer{vars{"API_TOKEN": long}.layer(), authToken}, []string{"agents.yaml:9: deploy.api.auth_token: a secret in a file"}},
		{"every origin by a file", []settings.Layer{corsEnabled}, []string{"any page may ask"}},
		{"every origin by a file, not in force", []settings.Layer{vars{"CORS_ORIGIN": "https://a.example"}.layer(), corsEnabled}, nil},
	} {
		t.Run(row.about, func(t *testing.T) {
			if got := parse(t, row.layers...).Warnings; !slices.Equal(got, row.want) {
				t.Error(cmp.Diff(row.want, got))
			}
		})
	}
}

// Variables that another system reads and we don't change nothing: the moving
// pages say so. txtai's CONFIG is a file of pipelines; PraisonAI's are other names
// of what is MODEL and OPENAI_BASE_URL here, and other providers' keys.
func TestVariablesOfOthersThatAreNotRead(t *testing.T) {
	for _, name := range []string{"CONFIG", "MODEL_NAME", "OPENAI_MODEL_NAME", "PRAISONAI_MODEL",
		"OPENAI_API_BASE", "OLLAMA_API_BASE", "OLLAMA_HOST", "ANTHROPIC_API_KEY", "GROQ_API_KEY"} {
		got := parse(t, vars{name: "https://user:canary@x.example"}.layer())
		if diff := cmp.Diff(parse(t), got, inside()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// The table can stand in a README and in .env.example, and its defaults are
// real: written out, they change nothing.
func TestTable(t *testing.T) {
	all := settings.All()
	if len(all) != 28 { // MODEL_API_KEY_SECRET_ARN and BEDROCK_MODEL_ARNS are how the template hands two parameters on; SESSION_TTL
		t.Errorf("%d settings, the contract has 25 and three", len(all))
	}
	seen := map[string]bool{}
	defaults := vars{}
	for _, s := range all {
		for _, name := range s.Names() {
			if seen[name] {
				t.Errorf("%s: twice", name)
			}
			seen[name] = true
		}
		if (s.Default == "") == (s.Unset == "") {
			t.Errorf("%s: either a default, or words for none", s.Name)
		}
		for _, text := range []string{s.Default, s.Unset, s.Takes, s.AWS} {
			if strings.ContainsAny(text, "|<>\n") {
				t.Errorf("%s: %q can't stand in a table", s.Name, text)
			}
		}
		if s.Takes == "" || s.AWS == "" {
			t.Errorf("%s: an empty cell", s.Name)
		}
		defaults[s.Name] = s.Default
	}
	if diff := cmp.Diff(parse(t), parse(t, defaults.layer()), inside()); diff != "" {
		t.Error(diff)
	}
}

// P4: whatever is wrong with a secret, neither the error nor the warnings nor
// the settings themselves show it.
func TestSecretsStayInside(t *testing.T) {
	const canary = "canary-7d1f"
	sinks := func(env vars) string {
		s, err := settings.Parse(env.layer())
		encoded, _ := json.Marshal(s)
		return fmt.Sprintf("%v %+v %#v %s %s", err, s, s.Warnings, encoded, strings.Join(s.Warnings, "\n"))
	}
	values := []string{"%s", "%s\n", "%s é", "%s é,%s", "sha256:%s", "SHA256:%s", "%s,,", ",%s", "%s,%s", "a,%s,%s",
		"https://user:%s@host", "https://%s@host?%s", "https://host/%s", "https://host/#%s", "://%s", "https://host/%%zz%s", "https://[%s"}
	for _, setting := range settings.All() {
		for _, name := range setting.Names() {
			inURL := name == "OPENAI_BASE_URL" || name == "JOBS_QUEUE_URL" || strings.HasPrefix(name, "CORS_")
			for _, value := range values {
				value = strings.ReplaceAll(value, "%s", canary)
				if !setting.Secret && !(inURL && strings.Contains(value, "@")) {
					continue
				}
				for _, env := range []vars{
					{name: value},
					{name: value, "API_TOKEN": "another", "ADMIN_API_KEY": value},
					{name: value, "API_TOKEN": value, "TOKEN": abcDigest},
				} {
					if out := sinks(env); strings.Contains(out, canary) {
						t.Errorf("%q: %s", env, out)
					}
				}
			}
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range settings.All() {
		f.Add(s.Name, s.Default, "API_TOKEN", long)
	}
	f.Add("TOKEN", abcDigest, "API_TOKEN", "abc")
	f.Add("CHAT_TIMEOUT", "9s", "TOKEN_GRACE", "0")
	f.Add("CORS_ORIGINS", "https://[::1]:3000, *", "API_AUTH", "disabled")
	f.Add("VALID_API_KEYS", "a,,b", "ADMIN_API_KEY", issued)
	f.Add("ALLOWED_IPS", "10.0.0.0/8, ::ffff:10.0.0.1\n", "TRUSTED_PROXIES", "*")
	f.Add("OPENAI_BASE_URL", "https://u:p@h:0/\n?#", "OPENAI_API_KEY", "\x00\u2028")

	secrets := map[string]bool{}
	for _, s := range settings.All() {
		for _, name := range s.Names() {
			secrets[name] = s.Secret
		}
	}
	const canary = "zqXcanary"
	f.Fuzz(func(t *testing.T, name, value, otherName, otherValue string) {
		if secrets[name] {
			value += canary
		}
		if secrets[otherName] {
			otherValue = canary + otherValue
		}
		env := vars{otherName: otherValue, name: value}
		s, err := settings.Parse(env.layer())
		out := strings.Join(s.Warnings, "\n")
		if err != nil {
			out = err.Error()
			faults := err.(interface{ Unwrap() []error }).Unwrap()
			if lines := strings.Split(out, "\n"); len(lines) != len(faults) || strings.ContainsAny(out, "\r\x00\u2028") {
				t.Errorf("%d faults in %d lines: %q", len(faults), len(lines), out)
			}
			for _, fault := range faults {
				if where, _, _ := strings.Cut(fault.Error(), ":"); env[strings.Fields(where)[0]] == "" {
					t.Errorf("%q names nothing that is set", fault)
				}
			}
		} else if s.Host == "" || s.ChatTimeout <= 0 || s.TokenCache <= 0 || s.RateLimit < 0 || s.Model == "" {
			t.Errorf("%q: accepted as %+v", env, s)
		}
		if strings.Contains(out, canary) {
			t.Errorf("a secret shows: %q", out)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	env := vars{"API_TOKEN": long, "ADMIN_API_KEY": longer, "VALID_API_KEYS": "sha256:" + abcDigest + ",abcd,efgh",
		"API_HOST": "0.0.0.0", "ALLOWED_IPS": "192.0.2.0/24, 198.51.100.7", "CORS_ORIGINS": "https://app.example.com",
		"MODEL": "gpt-4o-mini", "OPENAI_API_KEY": "sk-1", "OPENAI_BASE_URL": "https://api.example/v1"}
	layer := env.layer()
	for b.Loop() {
		if _, err := settings.Parse(layer); err != nil {
			b.Fatal(err)
		}
	}
}
