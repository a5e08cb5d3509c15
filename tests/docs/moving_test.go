package docs_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"postern/shared/settings"
	"postern/tests/sources"
)

// The pages "Moving from …" are held to the program. A page is read from top to
// bottom, and these parts of it mean something here:
//
//   - a comment <!-- server: NAME=value … --> is the environment of the server
//     that the samples below it are sent to;
//   - a ```yaml block is that server's agents.yaml (the sample agents without
//     one), and a ```text block right behind it is part of what the server tells
//     at its start;
//   - a ```sh, ```python or ```js block is a sample. It is run, and must end well
//     and print what the ```text block behind it says, where "…" is anything.
//
// In a sample pageURL is the server's address, and <token> is the token that the
// server generated. Every other token is what the page's environment says.

const pageURL = "http://127.0.0.1:8080"

// systems are the four, with the variables that they document and we read.
var systems = []struct {
	page      string
	variables []string
}{
	{"moving-from-praisonai.md", []string{"PRAISONAI_API_TOKEN", "PRAISONAI_API_AUTH", "PRAISONAI_API_HOST", "PRAISONAI_API_PORT"}},
	{"moving-from-elizaos.md", []string{"ELIZA_SERVER_AUTH_TOKEN", "CORS_ORIGIN"}},
	{"moving-from-txtai.md", []string{"TOKEN"}},
	{"moving-from-omnidev.md", []string{"ADMIN_API_KEY", "VALID_API_KEYS", "API_RATE_LIMIT", "ALLOWED_IPS", "LOG_LEVEL"}},
}

// Every variable has a row in its page's table and configures one of the page's
// servers; and every alias that the program knows is one of these variables.
func TestEveryVariableIsOnItsPage(t *testing.T) {
	t.Parallel()
	var known []string
	for _, system := range systems {
		text := page(t, system.page)
		known = append(known, system.variables...)
		for _, name := range system.variables {
			if !strings.Contains(text, "\n| `"+name+"`") {
				t.Errorf("%s has no row about %s", system.page, name)
			}
			if !regexp.MustCompile(`<!-- server: (?:\S+ )*` + name + `=`).MatchString(text) {
				t.Errorf("%s has no server with %s", system.page, name)
			}
		}
		if lines := strings.Count(text, "\n"); lines > 90 {
			t.Errorf("%s has %d lines, want at most 90", system.page, lines)
		}
		if !strings.Contains(readme(t), "docs/"+system.page) {
			t.Errorf("the README doesn't link %s", system.page)
		}
	}
	for _, s := range settings.All() {
		for _, alias := range s.Aliases {
			if !slices.Contains(known, alias) {
				t.Errorf("%s is an alias of %s, and on no page", alias, s.Name)
			}
		}
	}
}

func TestMovingFromPraisonAI(t *testing.T) { t.Parallel(); runPage(t, "moving-from-praisonai.md") }
func TestMovingFromElizaOS(t *testing.T)   { t.Parallel(); runPage(t, "moving-from-elizaos.md") }
func TestMovingFromTxtai(t *testing.T)     { t.Parallel(); runPage(t, "moving-from-txtai.md") }
func TestMovingFromOmniDev(t *testing.T)   { t.Parallel(); runPage(t, "moving-from-omnidev.md") }

// runPage runs every sample of a page against the servers that it describes.
func runPage(t *testing.T, name string) {
	parts, err := partsOf(page(t, name))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	var environment []string
	var agents string
	var running *server
	samples := 0
	for i, part := range parts {
		switch part.kind {
		case "server":
			environment, agents, running = strings.Fields(part.text), "", nil
			continue
		case "text":
			continue // belongs to the part before it
		case "yaml":
			agents, running = part.text, nil
		}
		expected, told := "", i+1 < len(parts) && parts[i+1].kind == "text"
		if told {
			expected = parts[i+1].text
		}
		if running == nil {
			running = startWith(t, environment, agents)
		}
		if part.kind == "yaml" {
			if told {
				running.waitFor(t, pattern(expected))
			}
			continue
		}
		samples++
		t.Run(fmt.Sprintf("line %d %s", part.line, part.kind), func(t *testing.T) {
			if !told {
				t.Fatal("no text block says what the sample prints")
			}
			got := running.run(t, part)
			if !matches(expected, got) {
				t.Errorf("%s:%d printed\n%s\nwant\n%s", name, part.line, got, expected)
			}
		})
	}
	if samples == 0 {
		t.Errorf("%s has no samples", name)
	}
}

func page(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// part is what means something on a page: a server's environment or a fenced
// block, whose kind is its language.
type part struct {
	kind, text string
	line       int
}

// partsOf reads a page. It refuses what would be silently passed over: a block
// of another kind, one that doesn't end, and a sample before the first server.
func partsOf(text string) ([]part, error) {
	var parts []part
	var open *part
	for i, line := range strings.Split(text, "\n") {
		kind, fence := strings.CutPrefix(line, "```")
		environment, comment := strings.CutPrefix(line, "<!-- server:")
		switch {
		case open != nil && fence:
			if kind != "" {
				return nil, fmt.Errorf("line %d: a block begins inside another", i+1)
			}
			parts, open = append(parts, *open), nil
		case open != nil:
			open.text += line + "\n"
		case fence:
			if !slices.Contains([]string{"sh", "python", "js", "yaml", "text"}, kind) {
				return nil, fmt.Errorf("line %d: a block of kind %q", i+1, kind)
			}
			if len(parts) == 0 {
				return nil, fmt.Errorf("line %d: no server is described above", i+1)
			}
			open = &part{kind: kind, line: i + 1}
		case comment:
			environment, closed := strings.CutSuffix(environment, "-->")
			if !closed {
				return nil, fmt.Errorf("line %d: the comment doesn't end", i+1)
			}
			parts = append(parts, part{kind: "server", text: environment, line: i + 1})
		}
	}
	if open != nil {
		return nil, fmt.Errorf("line %d: the block doesn't end", open.line)
	}
	return parts, nil
}

func TestPartsOfAPage(t *testing.T) {
	t.Parallel()
	for about, text := range map[string]string{
		"no server":       "```sh\ntrue\n```\n",
		"another kind":    "<!-- server: A=1 -->\n```bash\ntrue\n```\n",
		"an open block":   "<!-- server: A=1 -->\n```sh\ntrue\n",
		"an open comment": "<!-- server: A=1\n",
		"nested blocks":   "<!-- server: A=1 -->\n```sh\n```text\n```\n",
	} {
		if _, err := partsOf(text); err == nil {
			t.Errorf("%s is passed over", about)
		}
	}
	for _, row := range []struct {
		expected, got string
		want          bool
	}{
		{"a…c\n", "abbc", true}, {"a…c", "a\nc\n", true}, {"a.c", "abc", false}, {"a", "ab", false}, {"b…", "ab", false},
	} {
		if matches(row.expected, row.got) != row.want {
			t.Errorf("%q matches %q: %t", row.expected, row.got, !row.want)
		}
	}
}

// matches compares a sample's output with what the page says, where "…" is
// anything.
func matches(expected, got string) bool {
	return regexp.MustCompile(`\A` + pattern(expected) + `\z`).MatchString(strings.TrimSpace(got))
}

func pattern(expected string) string {
	return `(?s:` + strings.ReplaceAll(regexp.QuoteMeta(strings.TrimSpace(expected)), "…", ".*") + `)`
}

// server is the compiled program, running.
type server struct {
	url, token string // token: the generated one, if it generated one
	stderr     buffer
}

// startWith starts the program with nothing but an environment: that of a page,
// on a port of the system's choice. Without agents it serves the sample ones.
func startWith(t *testing.T, environment []string, agents string) *server {
	t.Helper()
	dir := t.TempDir()
	file, err := filepath.Abs("../../agents.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if agents != "" {
		file = "agents.yaml"
		if err := os.WriteFile(filepath.Join(dir, file), []byte(agents), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(compiled(t), "run")
	cmd.Dir = dir
	cmd.Env = []string{"HOME=" + dir, "AGENTS_FILE=" + file}
	port, host := "API_PORT", "127.0.0.1"
	for _, entry := range environment {
		name, value, _ := strings.Cut(entry, "=")
		switch {
		case strings.HasSuffix(name, "API_PORT"):
			port = name // the page's own name says 0, so that it is the one that counts
			continue
		case strings.HasSuffix(name, "API_HOST"):
			host = value
		}
		cmd.Env = append(cmd.Env, entry)
	}
	cmd.Env = append(cmd.Env, port+"=0")
	s := &server{}
	cmd.Stderr = &s.stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	s.url = s.waitFor(t, `listening on (http://\S+)\n`)[1]
	if !strings.HasPrefix(s.url, "http://"+host+":") || strings.HasSuffix(s.url, ":8080") {
		t.Fatalf("it listens on %s; the page says %v", s.url, environment)
	}
	s.waitFor(t, `\[postern\] try: `) // a generated token is told above this line
	if found := regexp.MustCompile(`generated API token: (\S+)\n`).FindStringSubmatch(s.stderr.String()); found != nil {
		s.token = found[1]
	}
	return s
}

// waitFor waits until what the server tells matches a regular expression.
func (s *server) waitFor(t *testing.T, expression string) []string {
	t.Helper()
	re := regexp.MustCompile(expression)
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if found := re.FindStringSubmatch(s.stderr.String()); found != nil {
			return found
		}
		if time.Now().After(deadline) {
			t.Fatalf("the server told\n%s\nwant %s", s.stderr.String(), expression)
		}
	}
}

// run runs a sample against the server, and returns what it prints.
func (s *server) run(t *testing.T, sample part) string {
	t.Helper()
	commands := map[string]struct{ command, probe []string }{
		"sh":     {[]string{"sh", "-eu"}, []string{"curl", "--version"}},
		"python": {[]string{"python3", "-"}, []string{"python3", "-c", "import requests"}},
		"js":     {[]string{"node", "--input-type=module", "-"}, []string{"node", "-e", "fetch"}},
	}
	with := commands[sample.kind]
	if exec.Command(with.probe[0], with.probe[1:]...).Run() != nil {
		missing := strings.Join(with.probe, " ")
		if os.Getenv("CI") == "true" {
			t.Fatalf("not installed: %s", missing)
		}
		t.Skipf("not installed: %s", missing)
	}
	text := strings.ReplaceAll(sample.text, pageURL, s.url)
	if strings.Contains(text, "<token>") {
		if s.token == "" {
			t.Fatal("the sample needs a generated token, and the page's server has its own")
		}
		text = strings.ReplaceAll(text, "<token>", s.token)
	}
	cmd := exec.CommandContext(t.Context(), with.command[0], with.command[1:]...)
	cmd.Stdin = strings.NewReader(text)
	cmd.Env = append(os.Environ(), "NO_PROXY=*", "no_proxy=*", "NO_COLOR=1", "PYTHONIOENCODING=utf-8")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, &stderr)
	}
	return string(out)
}

// buffer is a bytes.Buffer for one who writes and one who reads meanwhile.
type buffer struct {
	mu   sync.Mutex
	text []byte
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text = append(b.text, p...)
	return len(p), nil
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return string(b.text)
}

// builds is where compiled leaves the program, for TestMain to remove.
var builds string

// TestTheCacheKnowsTheSources is what makes go test run the others again.
func TestTheCacheKnowsTheSources(t *testing.T) {
	if err := sources.Depend("../.."); err != nil {
		t.Fatal(err)
	}
}

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "postern-docs")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	builds = dir
	code := m.Run()
	os.RemoveAll(dir)
	os.Exit(code)
}

var build = sync.OnceValues(func() (string, error) {
	program := filepath.Join(builds, "postern")
	if out, err := exec.Command("go", "build", "-o", program, "postern/cmd/postern").CombinedOutput(); err != nil {
		return "", fmt.Errorf("%w\n%s", err, out)
	}
	return program, nil
})

// compiled returns the program, built once for all pages.
func compiled(t *testing.T) string {
	t.Helper()
	program, err := build()
	if err != nil {
		t.Fatal(err)
	}
	return program
}
