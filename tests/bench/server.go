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
	"strconv"
	"strings"
	"time"

	"postern/shared/table/sqlite"
	"postern/tests/bench/issued"
)

const root = "bench-0123456789abcdefghijklmnopqrstuvwxyzA"

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
	var said strings.Builder
	for {
		line, err := lines.ReadString('\n')
		if err != nil {
			cmd.Process.Kill()
			cmd.Wait()
			return nil, fmt.Errorf("%s: no address: %w\n%s", cmd.Path, err, said.String())
		}
		said.WriteString(line)
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

// postern starts a server on a data folder, with settings beside the usual ones.
func postern(dir, data string, more ...string) (*server, error) {
	cmd := exec.Command(filepath.Join(dir, "postern"), "run", "--port", "0")
	cmd.Env = append([]string{"API_TOKEN=" + root, "API_RATE_LIMIT=1000000000", "LOG_FORMAT=json", "DATA_DIR=" + data}, more...)
	return serve("listening on ", cmd, (*exec.Cmd).StderrPipe)
}

// bare starts the baseline, with what GET /agents answers.
func bare(dir, body string) (*server, error) {
	return serve("", exec.Command(filepath.Join(dir, "bare"), body), (*exec.Cmd).StdoutPipe)
}

// keyIn issues a key in a data folder, which is made if there is none.
func keyIn(data string) (token string, err error) {
	t, err := sqlite.Beside(sqlite.Config{Dir: data})
	if err != nil {
		return "", err
	}
	defer t.Close()
	return issued.Key(context.Background(), t)
}

// request makes a request with a token.
func request(method, url, token, body string) *http.Request {
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		panic(err) // a URL of our own
	}
	r.Header.Set("Authorization", "Bearer "+token)
	r.Header.Set("Content-Type", "application/json")
	return r
}

// answer returns the body of a 200.
func answer(client *http.Client, r *http.Request) ([]byte, error) {
	response, err := client.Do(r)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: status %d: %s", r.URL, response.StatusCode, body)
	}
	return body, err
}

const starts = 25

// start measures from exec to the first answer, and the memory at rest.
func (v *verdicts) start(ctx context.Context, dir string) error {
	data := filepath.Join(dir, "start")
	if _, err := keyIn(data); err != nil {
		return err
	}
	var took, resident []float64
	for range starts {
		if err := ctx.Err(); err != nil {
			return err
		}
		begin := time.Now()
		s, err := postern(dir, data)
		if err != nil {
			return err
		}
		_, err = answer(http.DefaultClient, request(http.MethodGet, s.url+"/health", root, ""))
		took = append(took, float64(time.Since(begin).Microseconds())/1000)
		if kb, ok := residentKB(s.Process.Pid); ok {
			resident = append(resident, kb/1024)
		}
		s.stop()
		if err != nil {
			return err
		}
	}
	fmt.Printf("postern run on a data folder, %d starts, medians\n", starts)
	v.judge("exec to answer", "%8.1f ms", median(took), "≤", 50)
	if len(resident) > 0 {
		v.judge("memory at rest", "%8.1f MB", median(resident), "≤", 32)
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
