//go:build unix

package jobs_test

import (
	"bufio"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"postern/shared/auth"
	"postern/shared/jobs"
	"postern/shared/table"
	"postern/shared/table/sqlite"
)

// part is what a server that is to be killed is told: this binary plays it, if
// the environment has it.
type part struct {
	Dir   string // the data folder
	Names string // where to ask for names
	Port  string // of the callbacks' receiver
	Roots []byte // its certificate
}

const (
	partEnv    = "POSTERN_TEST_JOBS"
	killSecret = canary + "-secret"
)

func TestMain(m *testing.M) {
	told := os.Getenv(partEnv)
	if told == "" {
		os.Exit(m.Run())
	}
	var p part
	if err := errors.Join(json.Unmarshal([]byte(told), &p), p.play()); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// play serves POST / with jobs until it is killed, or its input ends: then it
// stops as it should. It says where it listens.
func (p part) play() error {
	store, err := sqlite.Open(sqlite.Config{Dir: p.Dir})
	if err != nil {
		return err
	}
	certificate, err := x509.ParseCertificate(p.Roots)
	if err != nil {
		return err
	}
	courier := &jobs.Courier{Permit: netip.Addr.IsLoopback, Roots: x509.NewCertPool(), Resolver: &net.Resolver{
		PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "udp", p.Names)
		}}}
	courier.Roots.AddCert(certificate)
	log := slog.New(slog.DiscardHandler)
	pool := jobs.NewPool(store, log)
	worker := &jobs.Worker{
		Store: &jobs.Store{Table: store}, Log: log, Longest: time.Minute, Alone: true, Courier: courier, Present: asBefore,
		Run: func(_ context.Context, _ auth.Caller, _ string, request []byte) (any, error) {
			time.Sleep(5 * time.Millisecond)
			return answerTo(string(request)), nil
		},
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Println(listener.Addr())
	submit := &jobs.Store{Table: store, Queue: pool}
	go http.Serve(listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		request, _ := io.ReadAll(r.Body)
		to, err := jobs.NewCallback(&jobs.CallbackWords{URL: "https://hooks.example.com:" + p.Port + "/", Secret: killSecret})
		if err == nil {
			var job jobs.Job
			job, err = submit.Submit(r.Context(), alice, jobs.Order{RequestID: "r", Request: request, Callback: to})
			if err == nil {
				err = jobs.Accepted(w, job)
			}
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
		}
	}))
	taking, stop := context.WithCancel(context.Background())
	go func() {
		io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	pool.Run(taking, context.Background(), worker.Do)
	return store.Close()
}

func answerTo(request string) string { return "the answer to " + request }

// server is a child that plays a part.
type server struct {
	*exec.Cmd
	in      io.Closer
	address string
}

func (p part) start(t *testing.T) *server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	told, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Cmd: exec.Command(self)}
	s.Env = append(os.Environ(), partEnv+"="+string(told))
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.kill)
	lines := bufio.NewScanner(out)
	lines.Scan()
	s.in, s.address = in, lines.Text()
	if _, err := netip.ParseAddrPort(s.address); err != nil {
		t.Fatalf("the server says %q", s.address)
	}
	return s
}

// kill is kill -9.
func (s *server) kill() {
	s.Process.Kill()
	s.Wait()
}

// post submits a job and returns its id, if it is acknowledged.
func (s *server) post(client *http.Client, request string) (id string, err error) {
	resp, err := client.Post("http://"+s.address+"/", "text/plain", strings.NewReader(request))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	var job jobs.Job
	if err == nil {
		err = json.Unmarshal(body, &job)
	}
	if err == nil && (resp.StatusCode != 202 || !jobs.ValidID(job.ID)) {
		err = fmt.Errorf("status %d: %s", resp.StatusCode, body)
	}
	return job.ID, err
}

// receiver is where callbacks go. It checks their signatures, and that all of one
// job are one.
type receiver struct {
	*testing.T
	mu    sync.Mutex
	first map[string]letter // by job
	again int               // how many were not the first of their job
	news  chan struct{}
}

func (r *receiver) ServeHTTP(_ http.ResponseWriter, req *http.Request) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return // a sender that was killed
	}
	var job jobs.Job
	mac := hmac.New(sha256.New, []byte(killSecret))
	mac.Write(body)
	signature := "sha256=" + hex.EncodeToString(mac.Sum(nil))
	if err := json.Unmarshal(body, &job); err != nil || req.Header.Get("X-Postern-Signature") != signature {
		r.Errorf("%v: %v %s", err, req.Header, body)
	}
	l := letter{delivery: req.Header.Get("X-Postern-Delivery"), body: string(body)}
	r.mu.Lock()
	defer r.mu.Unlock()
	first, there := r.first[job.ID]
	switch {
	case !there:
		r.first[job.ID] = l
	case first.delivery != l.delivery || first.body != l.body:
		r.Errorf("job %s was told\n%+v and\n%+v", job.ID, first, l)
	default:
		r.again++
	}
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// lacks is how many of the jobs it wasn't told of.
func (r *receiver) lacks(acknowledged map[string]string) (n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for id := range acknowledged {
		if _, there := r.first[id]; !there {
			n++
		}
	}
	return n
}

// P17: a server that is killed three times under load has run every job that it
// acknowledged, has recorded the result of each once, and has told it.
func TestP17KillUnderLoad(t *testing.T) {
	t.Parallel()
	const load = 500
	told := &receiver{T: t, first: map[string]letter{}, news: make(chan struct{}, 1)}
	site := httptest.NewUnstartedServer(told)
	site.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0) // of senders that were killed
	site.StartTLS()
	t.Cleanup(site.Close)
	names, err := courierNames(t, "127.0.0.1").Dial(t.Context(), "", "")
	if err != nil {
		t.Fatal(err)
	}
	names.Close()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	p := part{Dir: dir, Names: names.RemoteAddr().String(), Port: fmt.Sprint(site.Listener.Addr().(*net.TCPAddr).Port), Roots: site.Certificate().Raw}
	rnd := rand.New(rand.NewPCG(1, 2))
	kills := []int{50 + rnd.IntN(100), 175 + rnd.IntN(100), 300 + rnd.IntN(100)} // after that many

	acknowledged := map[string]string{} // the request, by id
	var last *server
	var sent atomic.Int32
	for round := 0; len(acknowledged) < load; round++ {
		last = p.start(t)
		enough := load
		if round < len(kills) {
			enough = kills[round]
		}
		client := &http.Client{Transport: &http.Transport{}}
		type ack struct{ id, request string }
		acks := make(chan ack)
		var posting sync.WaitGroup
		ctx, stop := context.WithCancel(t.Context())
		for range 8 {
			posting.Go(func() {
				for ctx.Err() == nil {
					request := fmt.Sprintf("request %d", sent.Add(1))
					id, err := last.post(client, request)
					if err != nil {
						return // it was killed
					}
					acks <- ack{id, request}
				}
			})
		}
		go func() {
			posting.Wait()
			close(acks)
		}()
		before := len(acknowledged)
		for a := range acks {
			acknowledged[a.id] = a.request
			switch {
			case len(acknowledged) != enough:
			case round < len(kills):
				last.kill()
			default:
				stop()
			}
		}
		stop()
		client.CloseIdleConnections()
		if len(acknowledged) == before {
			t.Fatal("nothing is acknowledged any more")
		}
	}
	for told.lacks(acknowledged) > 0 {
		select {
		case <-told.news:
		case <-time.After(time.Minute): // for each of them: how long all take is the disk's affair
			t.Fatalf("%d of %d callbacks never came", told.lacks(acknowledged), len(acknowledged))
		}
	}
	last.in.Close()
	if err := last.Wait(); err != nil {
		t.Errorf("the last one's end: %v", err)
	}

	store, err := sqlite.Open(sqlite.Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { store.Close() })
	for id, request := range acknowledged {
		job, err := (&jobs.Store{Table: store}).Get(t.Context(), alice, id)
		if want := fmt.Sprintf("%q\n", answerTo(request)); err != nil || job.Status != jobs.Succeeded || string(job.Result) != want {
			t.Errorf("job %s: %v, %s, %s, want %s", id, err, job.Status, job.Result, want)
		}
		items, err := store.List(t.Context(), "job#"+id, table.Query{Limit: table.MaxList})
		items = slices.DeleteFunc(items, func(i table.Item) bool { return i.Sort == "request" }) // which a kill may leave behind
		if err != nil || len(items) != 2 {                                                       // the record, one result
			t.Errorf("job %s has %d items, %v", id, len(items), err)
		}
		for _, item := range items {
			if strings.Contains(string(item.Value), canary) {
				t.Errorf("job %s has its callback still", id)
			}
		}
	}
	if left, err := store.List(t.Context(), "queue", table.Query{Limit: table.MaxList}); err != nil || len(left) > 0 {
		t.Errorf("%d are in the queue still, %v", len(left), err)
	}
	t.Logf("%d sent, %d acknowledged; %d callbacks, %d of them again", sent.Load(), len(acknowledged), len(told.first)+told.again, told.again)
}
