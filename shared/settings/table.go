package settings

import (
	"cmp"
	"fmt"
	"log/slog"
	"strings"
	"time"
)

// Setting is one row of the table. Its texts are plain: no line break, no "|"
// and no "<", so that they can stand in a Markdown table.
type Setting struct {
	Name    string
	Aliases []string // other names, in the environment and in .env files alone
	Default string   // the value if nobody sets one; "": none
	Unset   string   // what no value means, in words, where there is no Default
	Takes   string   // the values it takes; the cure in messages: "it takes …"
	AWS     string   // what it is on AWS, in words; "–": nothing
	Secret  bool     // the value is shown nowhere

	read func(text string) error
}

// Names returns the name and the aliases, in the order they are asked for.
func (s Setting) Names() []string { return append([]string{s.Name}, s.Aliases...) }

// setByTemplate marks what only template.yaml sets, and only for AWS.
const setByTemplate = "set by the template"

// Local reports whether the setting means something on one machine.
func (s Setting) Local() bool { return s.AWS != setByTemplate }

// Otherwise is what holds if nobody sets it, in words.
func (s Setting) Otherwise() string { return cmp.Or(s.Default, s.Unset) }

// All returns every setting, in the order people read them.
func All() []Setting { return table(new(Settings)) }

// table returns every setting, with s to be filled by reading them.
func table(s *Settings) []Setting {
	return []Setting{
		{Name: "API_AUTH", Aliases: []string{"PRAISONAI_API_AUTH"}, Default: "enabled", AWS: "always enabled",
			Takes: "enabled or disabled",
			read:  to(&s.AuthDisabled, choice(map[string]bool{"enabled": false, "disabled": true}))},
		{Name: "API_TOKEN", Aliases: []string{"PRAISONAI_API_TOKEN", "ELIZA_SERVER_AUTH_TOKEN", txtaiToken},
			Unset: "generated at each start", AWS: "the secret; API_TOKEN under sam local only", Secret: true,
			Takes: "a token of visible ASCII characters, or sha256: and the 64 hexadecimal digits of its digest",
			read:  to(&s.Root, token)},
		{Name: "ADMIN_API_KEY", Unset: "none", AWS: "no: issue keys instead", Secret: true,
			Takes: "a token of visible ASCII characters without a comma, or sha256: and the 64 hexadecimal digits of its digest",
			read:  to(&s.Admin, singleToken)},
		{Name: "VALID_API_KEYS", Unset: "none", AWS: "no: issue keys instead", Secret: true,
			Takes: "tokens separated by commas, each in clear or as sha256: and the 64 hexadecimal digits of its digest",
			read:  to(&s.Clients, each(parseToken))},

		{Name: "API_HOST", Aliases: []string{"PRAISONAI_API_HOST"}, Default: "127.0.0.1", AWS: "–",
			Takes: "an IP address or a host name, without scheme, brackets and port (that is API_PORT)",
			read:  to(&s.Host, host)},
		{Name: "API_PORT", Aliases: []string{"PRAISONAI_API_PORT"}, Default: "8080", AWS: "–",
			Takes: "a whole number from 0 to 65535, where 0 lets the system choose",
			read:  to(&s.Port, number(0, 65535))},
		{Name: "API_RATE_LIMIT", Default: "1000", AWS: "parameter ApiRateLimit",
			Takes: "a whole number of requests an hour from 0 to 1000000000, where 0 is no limit",
			read:  to(&s.RateLimit, number(0, 1_000_000_000))},
		{Name: "ALLOWED_IPS", Unset: "all", AWS: "parameter AllowedIps",
			Takes: "addresses and CIDR blocks separated by commas, or *",
			read:  to(&s.AllowedIPs, addresses)},
		{Name: "TRUSTED_PROXIES", Unset: "none", AWS: "–",
			Takes: "addresses and CIDR blocks separated by commas",
			read:  to(&s.TrustedProxies, proxies)},
		{Name: "CORS_ORIGINS", Aliases: []string{"CORS_ORIGIN"}, Unset: "off", AWS: "parameter CorsOrigin, one value",
			Takes: "origins such as https://app.example.com separated by commas, or a single *",
			read:  to(&s.CORSOrigins, origins)},
		{Name: "API_TLS_CERT", Unset: "plain HTTP", AWS: "always TLS",
			Takes: "the path of a PEM file, together with API_TLS_KEY",
			read:  to(&s.TLSCert, path)},
		{Name: "API_TLS_KEY", Unset: "plain HTTP", AWS: "always TLS",
			Takes: "the path of a PEM file, together with API_TLS_CERT",
			read:  to(&s.TLSKey, path)},

		{Name: "AGENTS_FILE", Default: "agents.yaml", AWS: "honoured by the build, which copies it in",
			Takes: "the path of a file",
			read:  to(&s.AgentsFile, path)},
		{Name: "DATA_DIR", Default: ".postern", AWS: "–",
			Takes: "the path of a folder",
			read:  to(&s.DataDir, path)},
		{Name: "MODEL", Default: "offline/eliza", AWS: "parameter Model",
			Takes: "provider/name such as openai/gpt-4o-mini; a bare name is one of openai/",
			read:  to(&s.Model, modelName)},
		{Name: "OPENAI_API_KEY", Unset: "none", AWS: "parameter ModelApiKeySecretArn", Secret: true,
			Takes: "the key as its provider shows it, visible ASCII characters",
			read:  to(&s.OpenAIKey, apiKey)},
		{Name: "OPENAI_BASE_URL", Unset: "OpenAI's own", AWS: "parameter OpenAIBaseUrl",
			Takes: "an http or https URL without user, query and fragment, such as http://127.0.0.1:11434/v1",
			read:  to(&s.OpenAIBaseURL, baseURL)},
		{Name: "CHAT_TIMEOUT", Default: "300s", AWS: "parameter ChatTimeout",
			Takes: "a duration from 1s to 900s, such as 90s or 5m",
			read:  to(&s.ChatTimeout, duration(time.Second, 900*time.Second))},
		{Name: "SESSION_TTL", Default: "30d", AWS: "in template.yaml, 30d",
			Takes: "a duration from 1m to 3650d, such as 12h or 30d",
			read:  to(&s.SessionTTL, duration(time.Minute, 3650*24*time.Hour))},

		{Name: "LOG_LEVEL", Default: "info", AWS: "parameter LogLevel",
			Takes: "debug, info, warn or error",
			read: to(&s.LogLevel, choice(map[string]slog.Level{
				"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}))},
		{Name: "LOG_FORMAT", Unset: "json, but text on a terminal", AWS: "json",
			Takes: "json or text",
			read:  to(&s.LogFormat, choice(map[string]string{"json": "json", "text": "text"}))},

		{Name: "TOKEN_SECRET_ARN", Unset: "no AWS", AWS: setByTemplate,
			Takes: "the ARN of a Secrets Manager secret",
			read:  to(&s.TokenSecretARN, secretARN)},
		{Name: "TOKEN_CACHE_SECONDS", Default: "60", AWS: setByTemplate,
			Takes: "a whole number of seconds from 1 to 900",
			read:  to(&s.TokenCache, seconds(1, 900))},
		{Name: "TOKEN_GRACE", Default: "24h", AWS: setByTemplate,
			Takes: "0, or a duration of at most 30d, such as 15m, 24h or 7d",
			read:  to(&s.TokenGrace, duration(0, 30*24*time.Hour))},
		{Name: "MODEL_API_KEY_SECRET_ARN", Unset: "none", AWS: setByTemplate,
			Takes: "the ARN of a Secrets Manager secret that holds the model provider's key",
			read:  to(&s.ModelKeyARN, secretARN)},
		{Name: "BEDROCK_MODEL_ARNS", Unset: "none", AWS: setByTemplate,
			Takes: "ARNs of Bedrock models and inference profiles separated by commas, with * and ? as in IAM",
			read:  to(&s.BedrockARNs, each(resourceARN))},
		{Name: "TABLE_NAME", Unset: "no AWS", AWS: setByTemplate,
			Takes: "a DynamoDB table's name, 3 to 255 letters, digits and characters of _.-",
			read:  to(&s.TableName, tableName)},
		{Name: "JOBS_QUEUE_URL", Unset: "no AWS", AWS: setByTemplate,
			Takes: "the URL of an SQS queue",
			read:  to(&s.JobsQueueURL, baseURL)},
	}
}

// to makes a reader that parses into field, and leaves it alone on a fault.
func to[T any](field *T, parse func(string) (T, error)) func(string) error {
	return func(text string) error {
		v, err := parse(text)
		if err != nil {
			return err
		}
		*field = v
		return nil
	}
}

// parse reads an entry, and makes a fault a line that people can act on.
func (s Setting) parse(e Entry) error {
	if e.Text == "" {
		return nil
	}
	if strings.TrimSpace(e.Text) == "" {
		return fmt.Errorf("%s: it is white space only; it takes %s, or nothing at all", e.Origin, s.Takes)
	}
	if err := s.read(e.Text); err != nil {
		return fmt.Errorf("%s: %w; it takes %s", e.Origin, err, s.Takes)
	}
	return nil
}
