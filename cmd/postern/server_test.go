package main

import (
	"bytes"
	"cmp"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"maps"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"postern/shared/settings"
)

// server is a process that serves.
type server struct {
	cmd    *exec.Cmd
	stdout output
	stderr output
	exited chan struct{}

	URL   string
	Token string // the generated one, if it told any
}

var (
	listening = regexp.MustCompile(`listening on (\S+)`)
	generated = regexp.MustCompile(`generated API token: (\S+)`)
)

// start runs program in dir until it listens. It fails if that ends instead.
func start(dir string, env []string, program string, args ...string) (*server, error) {
	s := &server{cmd: exec.Command(program, args...), exited: make(chan struct{})}
	s.cmd.Dir, s.cmd.Env = dir, env
	s.cmd.Stdout, s.cmd.Stderr = &s.stdout, &s.stderr
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		s.cmd.Wait()
		close(s.exited)
	}()
	if err := s.wait("[postern] try: "); err != nil {
		s.kill()
		return nil, err
	}
	told := s.stderr.String()
	s.URL = listening.FindStringSubmatch(told)[1]
	if m := generated.FindStringSubmatch(told); m != nil {
		s.Token = m[1]
	}
	return s, nil
}

// wait returns when text stands in what the process told, with an error if it
// ends before or takes too long.
func (s *server) wait(text string) error {
	late := time.After(patience)
	for {
		changed := s.stderr.changed()
		if strings.Contains(s.stderr.String(), text) {
			return nil
		}
		select {
		case <-changed:
		case <-s.exited:
			if strings.Contains(s.stderr.String(), text) {
				return nil
			}
			return fmt.Errorf("it ended (%v) without %q:\n%s", s.cmd.ProcessState, text, &s.stderr)
		case <-late:
			return fmt.Errorf("it didn't say %q:\n%s", text, &s.stderr)
		}
	}
}

// end waits for the process's end.
func (s *server) end() (*os.ProcessState, error) {
	select {
	case <-s.exited:
		return s.cmd.ProcessState, nil
	case <-time.After(patience):
		s.kill()
		return nil, fmt.Errorf("it doesn't end:\n%s", &s.stderr)
	}
}

func (s *server) kill() {
	s.cmd.Process.Kill()
	<-s.exited
}

// output collects what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{} // closed at the next write; nil: nobody waits
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more != nil {
		close(o.more)
		o.more = nil
	}
	return o.text.Write(b)
}

func (o *output) changed() <-chan struct{} {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.more == nil {
		o.more = make(chan struct{})
	}
	return o.more
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// startFor is start for a test, in an empty folder but for the files.
func startFor(t testing.TB, files map[string]string, env []string, program string, args ...string) *server {
	t.Helper()
	dir := t.TempDir()
	for name, text := range files {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if cover := os.Getenv("GOCOVERDIR"); cover != "" {
		env = append(env, "GOCOVERDIR="+cover)
	}
	s, err := start(dir, append(env, "API_PORT=0", "GORACE=atexit_sleep_ms=10"), program, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	return s
}

// The transcripts' commands.

// serverKey is where a script keeps the server that it runs, a **server.
type serverKey struct{}

// serve [args...] starts `postern run`, and sets URL and, if one is generated,
// KEY to its token.
func serveCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg {
		ts.Fatalf("use `! exec postern run`")
	}
	env := []string{}
	for _, name := range []string{"PATH", "HOME", "TMPDIR", "GOCOVERDIR", "GORACE"} {
		env = append(env, name+"="+ts.Getenv(name))
	}
	for _, row := range settings.All() {
		for _, name := range row.Names() {
			if v := ts.Getenv(name); v != "" {
				env = append(env, name+"="+v)
			}
		}
	}
	s, err := start(ts.MkAbs("."), env, "postern", append([]string{"run"}, args...)...)
	ts.Check(err)
	ts.Defer(s.kill)
	ts.Setenv("URL", s.URL)
	ts.Setenv("KEY", s.Token)
	*ts.Value(serverKey{}).(**server) = s
}

// shutdown ends the server by SIGTERM, which must succeed. What it wrote is then in
// stdout and stderr; the file server.txt is stderr with URL and TOKEN where they
// stand, which are others each time.
func shutdownCommand(ts *testscript.TestScript, _ bool, _ []string) {
	s := *ts.Value(serverKey{}).(**server)
	if s == nil {
		ts.Fatalf("no server runs")
	}
	ts.Check(s.cmd.Process.Signal(syscall.SIGTERM))
	state, err := s.end()
	ts.Check(err)
	if !state.Success() {
		ts.Fatalf("it ended with %v:\n%s", state, &s.stderr)
	}
	io.WriteString(ts.Stdout(), s.stdout.String())
	io.WriteString(ts.Stderr(), s.stderr.String())
	told := strings.ReplaceAll(s.stderr.String(), s.URL, "URL")
	if s.Token != "" {
		told = strings.ReplaceAll(told, s.Token, "TOKEN")
	}
	ts.Check(os.WriteFile(ts.MkAbs("server.txt"), []byte(told), 0o600))
}

// http STATUS METHOD PATH [body] [Name:value...] asks the server as a JSON
// client; the answer's headers and body are then in stdout. A body begins with
// a brace. $CERT names the certificate to trust.
func httpCommand(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 3 {
		ts.Fatalf("usage: http STATUS METHOD PATH [body] [Name:value...]")
	}
	var body string
	headers := args[3:]
	if len(headers) > 0 && strings.HasPrefix(headers[0], "{") {
		body, headers = headers[0], headers[1:]
	}
	r, err := http.NewRequest(args[1], ts.Getenv("URL")+args[2], strings.NewReader(body))
	ts.Check(err)
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ":")
		switch name {
		case "Host":
			r.Host = value
		case "Content-Type":
			r.Header.Set(name, value)
		default:
			r.Header.Add(name, value)
		}
	}
	transport := &http.Transport{DisableKeepAlives: true}
	if file := ts.Getenv("CERT"); file != "" {
		pool := x509.NewCertPool()
		pool.AppendCertsFromPEM([]byte(ts.ReadFile(file)))
		transport.TLSClientConfig = &tls.Config{RootCAs: pool}
	}
	response, err := (&http.Client{Transport: transport, Timeout: patience}).Do(r)
	ts.Check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	ts.Check(err)
	for _, name := range slices.Sorted(maps.Keys(response.Header)) {
		fmt.Fprintf(ts.Stdout(), "%s: %s\n", name, strings.Join(response.Header[name], ", "))
	}
	fmt.Fprintf(ts.Stdout(), "\n%s", text)
	if fmt.Sprint(response.StatusCode) != args[0] {
		ts.Fatalf("status %d, want %s\n%s", response.StatusCode, args[0], text)
	}
}

// occupy NAME opens a port and sets NAME to it.
func occupyCommand(ts *testscript.TestScript, _ bool, args []string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Defer(func() { l.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	ts.Setenv(args[0], port)
}

// certificate CERT KEY writes a certificate for 127.0.0.1 and its key.
func certificateCommand(ts *testscript.TestScript, _ bool, args []string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	ts.Check(err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(time.Hour),
		IPAddresses:  []net.IP{net.IPv4(127, 0, 0, 1)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	der, err = x509.MarshalPKCS8PrivateKey(key)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[1]), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
}

// within-hour waits for the next hour if this one is about to end: limits are of
// clock hours.
func withinHourCommand(*testscript.TestScript, bool, []string) {
	now := time.Now()
	if left := now.Truncate(time.Hour).Add(time.Hour).Sub(now); left < 30*time.Second {
		time.Sleep(left)
	}
}

// secretless SECRET fails if stdout or stderr of the last command has SECRET, or
// any eight characters of it in a row (P4).
func secretlessCommand(ts *testscript.TestScript, _ bool, args []string) {
	told := ts.ReadFile("stdout") + ts.ReadFile("stderr")
	if told == "" {
		ts.Fatalf("nothing was said at all")
	}
	for _, s := range args {
		if piece := pieceOf(s, told); piece != "" {
			ts.Fatalf("%q of a secret got out:\n%s", piece, told)
		}
	}
}

// pieceOf is the first eight characters of secret in a row that stand in text.
func pieceOf(secret, text string) string {
	const n = 8
	for i := 0; i+n <= max(len(secret), n); i++ {
		if piece := secret[i:min(i+n, len(secret))]; strings.Contains(text, cmp.Or(piece, "\x00")) {
			return piece
		}
	}
	return ""
}
