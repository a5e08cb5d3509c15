// Budgets builds the Lambdas that have a budget as `sam build` does, and holds
// them to the sizes of contract §7; the worker, which has none there, to chat's.
// Usage: go run ./tests/budgets, in the root of the repository.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

// budgets are the most that a stripped linux/arm64 bootstrap may weigh, in
// bytes, by the template's logical id.
var budgets = []struct {
	function string
	bytes    int64
}{
	{"HealthFunction", 6_200_000},
	{"AuthorizerFunction", 8_500_000},
	{"AgentsFunction", 9_000_000},
	{"ChatFunction", 15_000_000},
	{"WorkerFunction", 15_000_000},
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "budgets:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "postern-budgets")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	over := 0
	for _, round := range []string{"cold or warm, as the cache was", "warm"} {
		begin := time.Now()
		for _, b := range budgets {
			cmd := exec.Command("make", "--no-print-directory", "build-"+b.function)
			cmd.Env = append(os.Environ(), "ARTIFACTS_DIR="+filepath.Join(dir, b.function), "GOARCH=arm64")
			if err := os.MkdirAll(filepath.Join(dir, b.function), 0o755); err != nil {
				return err
			}
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", b.function, err, out)
			}
		}
		fmt.Printf("build of all, cache %s: %.1f s\n", round, time.Since(begin).Seconds())
	}
	for _, b := range budgets {
		info, err := os.Stat(filepath.Join(dir, b.function, "bootstrap"))
		if err != nil {
			return err
		}
		verdict := "ok"
		if info.Size() > b.bytes {
			verdict = "TOO LARGE"
			over++
		}
		fmt.Printf("%-20s %9d of %9d bytes  %s\n", b.function, info.Size(), b.bytes, verdict)
	}
	if over > 0 {
		return fmt.Errorf("%d over budget", over)
	}
	return nil
}
