// Bench measures what Postern adds, beside baselines that do the same outside
// work without it. Everything of a pair runs in one go, in turns, because these
// machines are noisy; medians are printed, and the ratio is the figure.
//
//	GET /agents    requests a second of `postern run` (token, limit and event
//	               line on) and of tests/bench/bare, from wrk where it is
//	               installed, else from this program
//	authorizer     a warm invocation of the compiled authorizer and of
//	               tests/bench/noop, under the same Runtime API host
//	start, rest    from exec to the first answer of /health; resident memory
//
// Usage: make bench, or go run ./tests/bench in the root of the repository.
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"postern/tests/lambdahost"
	"postern/tests/secretsfake"
)

const (
	token       = "bench-0123456789abcdefghijklmnopqrstuvwxyzA"
	rounds      = 9
	load        = 2 * time.Second // of one round
	connections = 32
	invocations = 2000 // of one round
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "postern-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-tags", "lambda.norpc", "-o", dir+string(filepath.Separator),
		"./cmd/postern", "./authorizer", "./tests/bench/bare", "./tests/bench/noop")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	for _, measure := range []func(string) error{throughput, authorizer, start} {
		if err := measure(dir); err != nil {
			return err
		}
	}
	return nil
}

// server is a child process that answers at url.
type server struct {
	*exec.Cmd
	url string
}

// serve starts a program and waits for the line that has its address after
// mark.
func serve(mark string, cmd *exec.Cmd, output func(*exec.Cmd) (io.ReadCloser, error)) (*server, error) {
	pipe, err := output(cmd)
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	lines := bufio.NewReader(pipe)
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			return nil, fmt.Errorf("%s: no address: %w", cmd.Path, err)
		}
		if _, url, found := strings.Cut(line, mark); found {
			go io.Copy(io.Discard, lines)
			return &server{cmd, strings.TrimSpace(url)}, nil
		}
	}
}

func (s *server) stop() {
	s.Process.Kill()
	s.Wait()
}

func postern(dir string) (*server, error) {
	cmd := exec.Command(filepath.Join(dir, "postern"), "run", "--port", "0")
	cmd.Env = []string{"API_TOKEN=" + token, "API_RATE_LIMIT=1000000000", "LOG_FORMAT=json"}
	return serve("listening on ", cmd, (*exec.Cmd).StderrPipe)
}

// throughput compares GET /agents with a bare handler.
func throughput(dir string) error {
	ours, err := postern(dir)
	if err != nil {
		return err
	}
	defer ours.stop()
	body := filepath.Join(dir, "body")
	if err := save(ours.url+"/agents", body); err != nil {
		return err
	}
	bare, err := serve("", exec.Command(filepath.Join(dir, "bare"), body), (*exec.Cmd).StdoutPipe)
	if err != nil {
		return err
	}
	defer bare.stop()

	generator, name := fromGo, "this program"
	if _, err := exec.LookPath("wrk"); err == nil {
		generator, name = fromWrk, "wrk"
	}
	var a, b []float64
	for range rounds {
		for _, side := range []struct {
			url     string
			figures *[]float64
		}{{ours.url, &a}, {bare.url, &b}} {
			rate, err := generator(side.url + "/agents")
			if err != nil {
				return err
			}
			*side.figures = append(*side.figures, rate)
		}
	}
	fmt.Printf("GET /agents, load from %s, %d connections, %d × %v in turns, medians\n", name, connections, rounds, load)
	fmt.Printf("  postern run   %8.0f requests/s\n  bare net/http %8.0f requests/s\n  ratio         %8.2f   (target ≥ 0.70)\n",
		median(a), median(b), median(a)/median(b))
	return nil
}

// save keeps the body of an answer for the bare server.
func save(url, path string) error {
	response, err := get(http.DefaultClient, url)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: status %d, %w", url, response.StatusCode, err)
	}
	return os.WriteFile(path, body, 0o600)
}

func get(client *http.Client, url string) (*http.Response, error) {
	r, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	r.Header.Set("Authorization", "Bearer "+token)
	return client.Do(r)
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkErrors = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors:.*`)
)

func fromWrk(url string) (float64, error) {
	out, err := exec.Command("wrk", "-t1", "-c", strconv.Itoa(connections), "-d", load.String(), "-H", "Authorization: Bearer "+token, url).CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("wrk: %w\n%s", err, out)
	}
	if fault := wrkErrors.Find(out); fault != nil {
		return 0, fmt.Errorf("wrk: %s", fault)
	}
	match := wrkRate.FindSubmatch(out)
	if match == nil {
		return 0, fmt.Errorf("wrk printed no rate:\n%s", out)
	}
	return strconv.ParseFloat(string(match[1]), 64)
}

func fromGo(url string) (float64, error) {
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: connections}}
	defer client.CloseIdleConnections()
	var done, failed atomic.Int64
	ctx, cancel := context.WithTimeout(context.Background(), load)
	defer cancel()
	var group sync.WaitGroup
	begin := time.Now()
	for range connections {
		group.Go(func() {
			for ctx.Err() == nil {
				response, err := get(client, url)
				if err != nil || response.StatusCode != http.StatusOK {
					failed.Add(1)
					return
				}
				io.Copy(io.Discard, response.Body)
				response.Body.Close()
				done.Add(1)
			}
		})
	}
	group.Wait()
	if n := failed.Load(); n > 0 {
		return 0, fmt.Errorf("%d requests failed", n)
	}
	return float64(done.Load()) / time.Since(begin).Seconds(), nil
}

// authorizer compares a warm invocation with one of a handler that decides
// nothing.
func authorizer(dir string) error {
	store := secretsfake.Start(secretsfake.Config{})
	defer store.Close()
	root := store.Create("root")
	root.Put(token)
	event, err := os.ReadFile("tests/bench/authorizer-event.json")
	if err != nil {
		return err
	}
	event = []byte(strings.ReplaceAll(string(event), "{token}", token))
	var hosts [2]*lambdahost.Host
	for i, name := range []string{"authorizer", "noop"} {
		hosts[i], err = lambdahost.Start(lambdahost.Config{
			Bootstrap: filepath.Join(dir, name),
			Env:       []string{"TOKEN_SECRET_ARN=" + root.ARN(), "TOKEN_CACHE_SECONDS=900", "TOKEN_GRACE=0", "AWS_ENDPOINT_URL_SECRETS_MANAGER=" + store.URL},
			MemoryMB:  256,
			Timeout:   10 * time.Second,
		})
		if err != nil {
			return err
		}
		defer hosts[i].Close()
	}
	var medians [2][]float64
	for round := range rounds + 1 {
		for i, host := range hosts {
			took := make([]float64, 0, invocations)
			for range invocations {
				result, err := host.Invoke(context.Background(), event)
				if err != nil {
					return err
				}
				if result.Err != nil {
					return result.Err
				}
				took = append(took, float64(result.Duration.Nanoseconds())/1000)
			}
			if round > 0 { // the first warms up
				medians[i] = append(medians[i], median(took))
			}
		}
	}
	fmt.Printf("authorizer, warm invocation under one Runtime API host, %d × %d in turns, medians\n", rounds, invocations)
	fmt.Printf("  authorizer    %8.1f µs\n  no-op         %8.1f µs\n  ratio         %8.2f   (target ≤ 1.15)\n",
		median(medians[0]), median(medians[1]), median(medians[0])/median(medians[1]))
	if n := store.Total(); n != 1 {
		return fmt.Errorf("%d calls to Secrets Manager, want the first alone", n)
	}
	return nil
}

// start measures from exec to the first answer, and the memory at rest.
func start(dir string) error {
	var took, resident []float64
	for range rounds {
		begin := time.Now()
		s, err := postern(dir)
		if err != nil {
			return err
		}
		response, err := http.Get(s.url + "/health")
		if err != nil {
			s.stop()
			return err
		}
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		response.Body.Close()
		if kb, ok := residentKB(s.Process.Pid); ok {
			resident = append(resident, kb/1024)
		}
		s.stop()
	}
	fmt.Printf("postern run, %d starts, medians\n  exec to answer %7.1f ms  (target < 50)\n", rounds, median(took))
	if len(resident) > 0 {
		fmt.Printf("  memory at rest %7.1f MB  (target ≤ 32)\n", median(resident))
	}
	return nil
}

// residentKB reads VmRSS, where there is a /proc.
func residentKB(pid int) (float64, bool) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			kb, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			return kb, err == nil
		}
	}
	return 0, false
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)/2]
}
