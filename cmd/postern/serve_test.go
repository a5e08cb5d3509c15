package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"postern/shared/route"
	"postern/shared/settings"
)

const oneAgent = "agents: {judge: {role: Judge}}\n"

// P6, I1: with nothing configured nobody gets in: every route by every method,
// with no credential and with those that people try first.
func TestNothingConfiguredNothingOpen(t *testing.T) {
	s := startFor(t, map[string]string{"agents.yaml": oneAgent}, nil, "postern", "run")
	paths := []string{"/", "/docs", "/openapi.json", "/admin", "/keys", "/dashboard", "/v1/models", "/.env", "/agents.yaml", "/debug/pprof/"}
	for _, row := range route.Table() {
		paths = append(paths, strings.ReplaceAll(row.Path, "{name}", "judge"))
	}
	for _, path := range paths {
		for _, method := range []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"} {
			for _, credential := range []string{"", "Bearer ", "Bearer null", "Bearer undefined", "Bearer changeme", "Bearer token", "Bearer [redacted]", "Bearer <token>"} {
				r, err := http.NewRequest(method, s.URL+path, strings.NewReader(`{"message":"m"}`))
				if err != nil {
					t.Fatal(err)
				}
				r.Header.Set("Content-Type", "application/json")
				if credential != "" {
					r.Header.Set("Authorization", credential)
				}
				response, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				response.Body.Close()
				open := path == "/health" && (method == "GET" || method == "HEAD")
				if (response.StatusCode == 200) != open || response.StatusCode >= 500 {
					t.Errorf("%s %s with %q: %d", method, path, credential, response.StatusCode)
				}
			}
		}
	}
}

// .env.example is a file that works: it is read, as it is and with every
// # removed, and it names each setting of one machine with its default.
func TestEnvExample(t *testing.T) {
	text := string(envExample())
	as, err := parseDotenv("", []byte(text))
	if err != nil || len(as) != 0 {
		t.Errorf("as it is it sets %v, %v", as, err)
	}
	var want []string
	for _, s := range settings.All() {
		if s.Local() {
			want = append(want, s.Name)
		} else if strings.Contains(text, s.Name) {
			t.Errorf("%s means nothing on one machine", s.Name)
		}
	}
	assignment := regexp.MustCompile(`(?m)^#([A-Z_]+)=`)
	var got []string
	for _, m := range assignment.FindAllStringSubmatch(text, -1) {
		got = append(got, m[1])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("its settings (-want +got):\n%s", diff)
	}
	values, err := parseDotenv("", assignment.ReplaceAll([]byte(text), []byte("$1=")))
	if err != nil || len(values) != len(want) {
		t.Fatalf("without its # it is %v, %v", values, err)
	}
	switchedOn, err := settings.Parse(settings.Dotenv(".env", values))
	if err != nil {
		t.Fatal(err)
	}
	untouched, err := settings.Parse()
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(untouched, switchedOn) {
		t.Errorf("its values are not the defaults:\n%+v, want\n%+v", switchedOn, untouched)
	}
}

// P17: a request that has begun when SIGTERM comes is answered; new ones are
// not let in; the exit status is 0.
func TestSIGTERMFinishesARequest(t *testing.T) {
	s := startFor(t, map[string]string{"agents.yaml": oneAgent}, []string{"API_TOKEN=0123456789abcdef"}, "postern", "run")
	const body = `{"message":"I am sad."}`
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "POST /chat HTTP/1.1\r\nHost: x\r\nX-API-Key: 0123456789abcdef\r\nContent-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: %d\r\n\r\n", len(body))
	answer := bufio.NewReader(conn)
	if line, err := answer.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" { // the handler reads
		t.Fatalf("%q, %v", line, err)
	}
	answer.ReadString('\n')
	io.WriteString(conn, body[:5])

	terminate(t, s)
	for refused := false; !refused; { // the listener closes just after the words
		c, err := net.Dial("tcp", strings.TrimPrefix(s.URL, "http://"))
		if refused = errors.Is(err, syscall.ECONNREFUSED); err == nil {
			c.Close()
		}
	}
	io.WriteString(conn, body[5:])
	response, err := http.ReadResponse(answer, nil)
	if err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 || !strings.Contains(string(text), `"status":"success"`) {
		t.Errorf("%d %s, %v", response.StatusCode, text, err)
	}
	if state, err := s.end(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
	if !strings.Contains(s.stderr.String(), `"route":"chat","status":200`) {
		t.Errorf("the request isn't in the log:\n%s", &s.stderr)
	}
}

// terminate sends SIGTERM and waits until s says so.
func terminate(t *testing.T, s *server) {
	t.Helper()
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := s.wait("stopping: finishing what is running"); err != nil {
		t.Fatal(err)
	}
}

// startSlowly starts a server whose model says the next word at SIGUSR1, and a
// stream of it, of which the first word has come.
func startSlowly(t *testing.T, env ...string) (*server, *http.Response) {
	t.Helper()
	env = append(env, "MODEL=slow/tide", "API_TOKEN=0123456789abcdef")
	s := startFor(t, map[string]string{"agents.yaml": oneAgent}, env, "slow-postern")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	r, err := http.NewRequestWithContext(ctx, "POST", s.URL+"/chat", strings.NewReader(`{"message":"m","stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	r.Header = http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {"0123456789abcdef"}}
	response, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { response.Body.Close() })
	const first = "event: delta\ndata: {\"delta\":\"ebb \"}\n\n"
	got := make([]byte, len(first))
	if _, err := io.ReadFull(response.Body, got); err != nil || string(got) != first {
		t.Fatalf("%d %q, %v", response.StatusCode, got, err)
	}
	return s, response
}

// P17: a stream that runs goes on to its end.
func TestSIGTERMFinishesAStream(t *testing.T) {
	s, response := startSlowly(t)
	terminate(t, s)
	s.cmd.Process.Signal(syscall.SIGUSR1)
	rest, err := io.ReadAll(response.Body)
	if want := "event: delta\ndata: {\"delta\":\"flow\"}\n\nevent: done\n"; err != nil || !strings.HasPrefix(string(rest), want) {
		t.Errorf("%q, %v", rest, err)
	}
	if state, err := s.end(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
}

// A chat's own time is all that a stop waits for: then its caller is told, and
// the process ends by itself.
func TestSIGTERMWaitsForTheChatsTimeout(t *testing.T) {
	s, response := startSlowly(t, "CHAT_TIMEOUT=3s")
	terminate(t, s)
	rest, err := io.ReadAll(response.Body)
	if err != nil || !strings.HasPrefix(string(rest), "event: error\ndata: {\"status\":504,") {
		t.Errorf("%q, %v", rest, err)
	}
	if state, err := s.end(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
}

// A second signal ends the process at once, whatever runs.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	for _, second := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		s, response := startSlowly(t)
		terminate(t, s)
		s.cmd.Process.Signal(second)
		state, err := s.end()
		if err != nil {
			t.Fatal(err)
		}
		if status, ok := state.Sys().(syscall.WaitStatus); !ok || status.Signal() != second {
			t.Errorf("after a second signal, %v: %v", second, state)
		}
		if _, err := io.ReadAll(response.Body); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the stream ended with %v", err)
		}
	}
}

// An idle server stops at once, at Ctrl-C too.
func TestInterrupt(t *testing.T) {
	s := startFor(t, map[string]string{"agents.yaml": oneAgent}, nil, "postern", "run")
	s.cmd.Process.Signal(os.Interrupt)
	if state, err := s.end(); err != nil || !state.Success() {
		t.Errorf("%v, %v", state, err)
	}
}

// Every kind of joined, wrapped or many-lined error is lines of its own.
func TestFaults(t *testing.T) {
	one, two := errors.New("one"), errors.New("two\nin two lines")
	for _, row := range []struct {
		name string
		err  error
		want []string
	}{
		{"one", one, []string{"one"}},
		{"a line break is none", two, []string{"two in two lines"}},
		{"joined", errors.Join(one, two), []string{"one", "two in two lines"}},
		{"joined twice", errors.Join(errors.Join(one, one), two), []string{"one", "one", "two in two lines"}},
	} {
		t.Run(row.name, func(t *testing.T) {
			if diff := cmp.Diff(row.want, faults(row.err)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// The guard of the transcripts guards.
func TestPieceOf(t *testing.T) {
	for _, row := range []struct{ secret, text, want string }{
		{"0123456789", "nothing", ""},
		{"0123456789", "…12345678…", "12345678"},
		{"0123456789", "23456789", "23456789"},
		{"0123456789", "0123456", ""},
		{"short", "a short one", "short"},
		{"short", "shor", ""},
	} {
		if got := pieceOf(row.secret, row.text); got != row.want {
			t.Errorf("%q in %q: %q", row.secret, row.text, got)
		}
	}
}

// BenchmarkStart is the time from the process's start to the first answer of
// /health, of the program as people build it, and its memory at rest.
func BenchmarkStart(b *testing.B) {
	program := filepath.Join(b.TempDir(), "postern")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, ".")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, text)
	}
	dir := b.TempDir()
	if err := os.WriteFile(dir+"/agents.yaml", []byte(oneAgent), 0o600); err != nil {
		b.Fatal(err)
	}
	var resident []int
	for b.Loop() {
		s, err := start(dir, []string{"API_PORT=0"}, program, "run")
		if err != nil {
			b.Fatal(err)
		}
		response, err := http.Get(s.URL + "/health")
		if err != nil || response.StatusCode != 200 {
			b.Fatal(response, err)
		}
		response.Body.Close()
		b.StopTimer()
		resident = append(resident, residentKB(b, s.cmd.Process.Pid))
		s.kill()
		http.DefaultClient.CloseIdleConnections()
		b.StartTimer()
	}
	b.ReportMetric(float64(slices.Max(resident))/1024, "MB-resident")
	b.ReportMetric(float64(b.Elapsed().Microseconds())/1000/float64(b.N), "ms/start")
}

// residentKB is VmRSS of a process; 0 where there is no /proc.
func residentKB(tb testing.TB, pid int) (kB int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if errors.Is(err, os.ErrNotExist) {
		return 0
	}
	_, after, found := strings.Cut(string(text), "VmRSS:")
	if _, err := fmt.Sscan(after, &kB); err != nil || !found {
		tb.Fatalf("no VmRSS: %v", err)
	}
	return kB
}
