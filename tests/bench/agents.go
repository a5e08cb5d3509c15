package main

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	loads       = 18
	load        = time.Second // of one turn
	connections = 32
)

// throughput compares GET /agents with a bare handler.
func (v *verdicts) throughput(ctx context.Context, dir string) error {
	data, body := filepath.Join(dir, "agents"), filepath.Join(dir, "body")
	key, err := keyIn(data)
	if err != nil {
		return err
	}
	ours, err := postern(dir, data)
	if err != nil {
		return err
	}
	defer ours.stop()
	listing, err := answer(http.DefaultClient, request(http.MethodGet, ours.url+"/agents", key, ""))
	if err != nil {
		return err
	}
	if err := os.WriteFile(body, listing, 0o600); err != nil {
		return err
	}
	other, err := bare(dir, body)
	if err != nil {
		return err
	}
	defer other.stop()

	name, generate := generator()
	sides := []struct{ url, token string }{{ours.url, root}, {ours.url, key}, {other.url, root}}
	rates, err := inTurns(ctx, loads, len(sides), func(i int) (float64, error) {
		return generate(sides[i].url+"/agents", sides[i].token)
	})
	if err != nil {
		return err
	}
	fmt.Printf("GET /agents, load from %s, %d connections, %d × %v in turns, medians\n", name, connections, loads, load)
	show("bare net/http", "%8.0f requests/s", rates[2])
	show("root token", "%8.0f requests/s", rates[0])
	show("issued key", "%8.0f requests/s", rates[1])
	v.judge("root token to bare", "%8.2f", ratio(rates[0], rates[2]), "≥", 0.70)
	v.judge("issued key to bare", "%8.2f", ratio(rates[1], rates[2]), "≥", 0.60)
	return nil
}

// generator is what makes the load, and its name. It returns requests a second.
func generator() (name string, generate func(url, token string) (float64, error)) {
	if _, err := exec.LookPath("wrk"); err == nil {
		return "wrk", fromWrk
	}
	return "this program", fromGo
}

var (
	wrkRate   = regexp.MustCompile(`Requests/sec:\s+([0-9.]+)`)
	wrkErrors = regexp.MustCompile(`Non-2xx or 3xx responses: \d+|Socket errors:.*`)
)

func fromWrk(url, token string) (float64, error) {
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

func fromGo(url, token string) (float64, error) {
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
				if _, err := answer(client, request(http.MethodGet, url, token, "")); err != nil {
					failed.Add(1)
					return
				}
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
