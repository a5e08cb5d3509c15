// Package moto runs moto, an independent implementation of AWS in Python, for
// tests that hold our use of a service to more than our own fake of it. It is
// installed by pip, as moto_server: `pip install 'moto[server]'`.
package moto

import (
	"bufio"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"
)

// running is how it reports that it listens, on a port of the system's choice.
var running = regexp.MustCompile(`Running on (http://127\.0\.0\.1:\d+)`)

// Start runs moto_server in a process of its own until t ends, and returns its
// URL. Without it t is skipped, and fails where CI is "true".
func Start(t *testing.T) string {
	t.Helper()
	if _, err := exec.LookPath("moto_server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("moto_server is not installed")
		}
		t.Skip("moto_server is not installed")
	}
	server := exec.Command("moto_server", "-H", "127.0.0.1", "-p", "0")
	stderr, err := server.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := server.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Process.Kill(); server.Wait() })
	late := time.AfterFunc(2*time.Minute, func() { server.Process.Kill() })
	defer late.Stop()
	var said strings.Builder
	for lines := bufio.NewReader(stderr); ; {
		line, err := lines.ReadString('\n')
		if report := running.FindStringSubmatch(line); report != nil {
			go io.Copy(io.Discard, lines) // it says a line for each call
			return report[1]
		}
		said.WriteString(line)
		if err != nil {
			t.Fatalf("moto_server didn't come up: %s", said.String())
		}
	}
}
