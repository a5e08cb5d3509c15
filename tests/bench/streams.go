package main

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/aws/aws-lambda-go/events"

	"postern/tests/dynamofake"
	"postern/tests/lambdahost"
)

const (
	firstDeltas = 1000

	firstByteTurns = 100
	firstBytes     = 20 // of one turn

	openStreams = 2000
	openFor     = 30 * time.Second
	heldFor     = 10 * time.Second // with the offline model; what a reader leaves unread is cut after a minute

	streamedMessage = `{"stream":true,"message":"I am unhappy because my tests fail on somebody else's machine."}`
)

// streams measures how soon a stream begins, and what many cost that are open at
// once.
func (v *verdicts) streams(ctx context.Context, dir string) error {
	for _, measure := range []func(context.Context, string) error{v.firstDelta, v.firstByte, v.unread, v.slow} {
		if err := measure(ctx, dir); err != nil {
			return err
		}
	}
	return nil
}

// firstDelta measures from a request to its first delta.
func (v *verdicts) firstDelta(ctx context.Context, dir string) error {
	s, err := postern(dir, filepath.Join(dir, "first"))
	if err != nil {
		return err
	}
	defer s.stop()
	client := &http.Client{}
	defer client.CloseIdleConnections()
	var took []float64
	for i := range firstDeltas + firstDeltas/10 {
		begin := time.Now()
		open, err := open(ctx, client, s.url+"/chat", streamedMessage, func(string) {})
		if err != nil {
			return err
		}
		if i >= firstDeltas/10 { // those before warm up
			took = append(took, time.Since(begin).Seconds()*1000)
		}
		if err := open.rest(); err != nil {
			return err
		}
	}
	fmt.Printf("a stream of the offline model, one connection, root token, %d in a row\n", firstDeltas)
	v.judge("request to first delta", "%8.3f ms", median(took), "≤", 5)
	show("of 100 the slowest", "%8.3f ms", []float64{percentile(took, 99)})
	return nil
}

// firstByte compares a streamed chat in the compiled function with functions that
// answer the same at once: one that does nothing for it, and one that counts the
// request in DynamoDB as the chat has to.
func (v *verdicts) firstByte(ctx context.Context, dir string) error {
	dynamo := dynamofake.Start()
	defer dynamo.Close()
	dynamo.Create("postern")
	event, err := json.Marshal(chatEvent())
	if err != nil {
		return err
	}
	table := []string{"TABLE_NAME=postern", "AWS_ENDPOINT_URL_DYNAMODB=" + dynamo.URL}
	start := func(bootstrap string, env ...string) (*lambdahost.Host, error) {
		return lambdahost.Start(lambdahost.Config{Bootstrap: filepath.Join(dir, bootstrap), Dir: ".", Env: env, MemoryMB: 512, Timeout: time.Minute})
	}
	chat, err := start("chat", append(table, "API_RATE_LIMIT=0", "LOG_LEVEL=info")...)
	if err != nil {
		return err
	}
	defer chat.Close()
	metadata, body, _, err := streamed(ctx, chat, event)
	if err != nil {
		return err
	}
	reply := []string{"METADATA=" + metadata, "BODY=" + body}
	noop, err := start("noopstream", reply...)
	if err != nil {
		return err
	}
	defer noop.Close()
	counting, err := start("noopstream", append(reply, table...)...)
	if err != nil {
		return err
	}
	defer counting.Close()

	hosts := []*lambdahost.Host{noop, counting, chat}
	took, err := inTurns(ctx, firstByteTurns, len(hosts), func(i int) (float64, error) {
		took := make([]float64, 0, firstBytes)
		for range firstBytes {
			_, _, first, err := streamed(ctx, hosts[i], event)
			if err != nil {
				return 0, err
			}
			took = append(took, first.Seconds()*1000)
		}
		return median(took), nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("first byte of a streamed chat under one Runtime API host, warm, %d × %d in turns, medians\n", firstByteTurns, firstBytes)
	show("no-op", "%8.3f ms", took[0])
	show("no-op that counts", "%8.3f ms", took[1])
	show("chat", "%8.3f ms", took[2])
	v.judge("beyond that counts", "%8.3f ms", median(took[2])-median(took[1]), "≤", 1)
	v.judge("beyond the no-op", "%8.3f ms", median(took[2])-median(took[0]), "≤", 1)
	return nil
}

// chatEvent is what API Gateway makes of a streamed chat with the root token.
func chatEvent() events.APIGatewayProxyRequest {
	return events.APIGatewayProxyRequest{
		Resource: "/chat", Path: "/chat", HTTPMethod: http.MethodPost,
		MultiValueHeaders: map[string][]string{"Content-Type": {"application/json"}, "Accept": {"text/event-stream"}},
		Body:              message,
		RequestContext: events.APIGatewayProxyRequestContext{
			RequestID: "c6af9ac6-7b61-11e6-9a41-93e8deadbeef", Stage: "prod", Path: "/prod/chat",
			Identity:   events.APIGatewayRequestIdentity{SourceIP: "203.0.113.7"},
			Authorizer: map[string]any{"principalId": "root", "kind": "root", "scopes": `["agents:read","chat","admin"]`},
		},
	}
}

// streamed invokes a function and reads its whole answer; first is when the first
// byte of the body was there.
func streamed(ctx context.Context, host *lambdahost.Host, event []byte) (metadata, body string, first time.Duration, err error) {
	begin := time.Now()
	result, err := host.Invoke(ctx, event)
	if err != nil {
		return "", "", 0, err
	}
	if result.Stream == nil {
		return "", "", 0, fmt.Errorf("no stream: %v: %s", result.Err, result.Payload)
	}
	defer result.Stream.Body.Close()
	b := make([]byte, 1)
	if _, err := io.ReadFull(result.Stream.Body, b); err != nil {
		return "", "", 0, err
	}
	first = time.Since(begin)
	rest, err := io.ReadAll(result.Stream.Body)
	if err == nil && !strings.Contains(string(rest), "event: done") {
		err = fmt.Errorf("a stream without its end: %s %s%s", result.Stream.Metadata, b, rest)
	}
	return string(result.Stream.Metadata), string(b) + string(rest), first, err
}

// unread holds streams of the offline model open, which says all at once: by
// readers that stop after the first delta of a long answer, over connections that
// hold little. OpenAI's frames make it longest for what the message takes.
func (v *verdicts) unread(ctx context.Context, dir string) error {
	s, err := postern(dir, filepath.Join(dir, "unread"), "API_RATE_LIMIT=0")
	if err != nil {
		return err
	}
	defer s.stop()
	transport := &http.Transport{
		DisableKeepAlives: true,
		ReadBufferSize:    512,
		DialContext:       (&net.Dialer{Control: narrow}).DialContext,
	}
	reading := make(chan struct{})
	fmt.Printf("%d streams of the offline model, unread for %v\n", openStreams, heldFor)
	return crowd{
		verdicts: v,
		client:   &http.Client{Transport: transport},
		path:     "/v1/chat/completions",
		body:     `{"model":"assistant","stream":true,"messages":[{"role":"user","content":"I need ` + strings.Repeat("w ", 1300) + `."}]}`,
		lasts:    heldFor,
		reading:  reading,
		end:      func() { close(reading) },
		arrived:  func(string) {},
		memory:   func(kib float64) { v.judge("memory of a stream", "%8.1f KiB", kib, "≤", 64) },
	}.hold(ctx, s)
}

// narrow makes a connection whose server soon has to wait for its reader.
func narrow(_, _ string, c syscall.RawConn) error {
	var failed error
	err := c.Control(func(fd uintptr) {
		failed = cmp.Or(syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVBUF, 4<<10),
			syscall.SetsockoptInt(int(fd), syscall.IPPROTO_TCP, syscall.TCP_MAXSEG, 536))
	})
	return cmp.Or(err, failed)
}

// slow holds streams open by an upstream that says one delta a second, the time,
// and measures how long each was on its way.
func (v *verdicts) slow(ctx context.Context, dir string) error {
	up := &upstream{end: make(chan struct{})}
	upstream := httptest.NewServer(up)
	defer upstream.Close()
	s, err := postern(dir, filepath.Join(dir, "slow"), "API_RATE_LIMIT=0", "MODEL=openai/slow", "OPENAI_BASE_URL="+upstream.URL+"/v1")
	if err != nil {
		return err
	}
	defer s.stop() // before the upstream, which waits for its own
	reading := make(chan struct{})
	close(reading)
	var mu sync.Mutex
	var late []float64
	fmt.Printf("%d streams, an upstream that says one delta a second, for %v\n", openStreams, openFor)
	err = crowd{
		verdicts: v,
		client:   &http.Client{Transport: &http.Transport{DisableKeepAlives: true}},
		path:     "/chat",
		body:     streamedMessage,
		lasts:    openFor,
		reading:  reading,
		memory:   func(kib float64) { show("memory of a stream", "%8.1f KiB", []float64{kib}) }, // and of a connection to the model
		end:      sync.OnceFunc(func() { close(up.end) }),
		arrived: func(text string) {
			sent, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			took := float64(time.Now().UnixNano()-sent) / 1e6
			mu.Lock()
			late = append(late, took)
			mu.Unlock()
		},
	}.hold(ctx, s)
	if err != nil {
		return err
	}
	if sent := int(up.sent.Load()); len(late) != sent {
		return fmt.Errorf("%d deltas were sent, %d arrived", sent, len(late))
	}
	fmt.Printf("  %-24s %8d\n", "deltas", len(late))
	show("on their way", "%8.1f ms", late)
	v.judge("the slowest of them", "%8.1f ms", slices.Max(late), "≤", 1000)
	return nil
}

// upstream is a slow model behind OpenAI's chat completions.
type upstream struct {
	end  chan struct{} // closed: answers end
	sent atomic.Int64  // deltas
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/event-stream")
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		u.sent.Add(1)
		fmt.Fprintf(w, `data: {"choices":[{"index":0,"delta":{"content":"%d "}}]}`+"\n\n", time.Now().UnixNano())
		w.(http.Flusher).Flush()
		select {
		case <-tick.C:
		case <-r.Context().Done():
			return
		case <-u.end:
			io.WriteString(w, `data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}`+"\n\n"+
				`data: {"choices":[],"usage":{"prompt_tokens":1,"completion_tokens":1}}`+"\n\ndata: [DONE]\n\n")
			return
		}
	}
}

// crowd is many streams at once.
type crowd struct {
	*verdicts
	client  *http.Client
	path    string
	body    string
	lasts   time.Duration
	reading <-chan struct{} // closed: they are read on from their first delta
	end     func()          // lets them end
	arrived func(text string)
	memory  func(kib float64) // is told what one stream takes
}

// hold opens all streams at once, keeps them open, and reads each to its end.
// Meanwhile it watches the server's memory, and how soon /health is answered.
func (c crowd) hold(ctx context.Context, s *server) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := answer(http.DefaultClient, request(http.MethodGet, s.url+"/health", root, "")); err != nil {
		return err
	}
	rest, _ := residentKB(s.Process.Pid)

	begin := time.Now()
	opened, ended := make(chan struct{}, openStreams), make(chan error, openStreams)
	for range openStreams {
		go func() { ended <- c.one(ctx, s, opened) }()
	}
	for range openStreams {
		select {
		case <-opened:
		case err := <-ended:
			return cmp.Or(err, errors.New("a stream ended before all were open"))
		}
	}
	fmt.Printf("  %-24s %8.1f s\n", "all open after", time.Since(begin).Seconds())

	var most float64
	var health []float64
	for end := time.Now().Add(c.lasts); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		begin := time.Now()
		if _, err := answer(http.DefaultClient, request(http.MethodGet, s.url+"/health", root, "")); err != nil {
			return err
		}
		health = append(health, time.Since(begin).Seconds()*1000)
		kb, _ := residentKB(s.Process.Pid)
		most = max(most, kb)
		select {
		case err := <-ended:
			return cmp.Or(ctx.Err(), err, errors.New("a stream ended early"))
		default:
		}
	}
	if n, err := runs(s); err != nil || n > 0 {
		return cmp.Or(err, fmt.Errorf("%d runs ended while their streams were held open", n))
	}
	c.end()
	for range openStreams {
		if err := <-ended; err != nil {
			return err
		}
	}
	if n, err := runs(s); err != nil || n != openStreams {
		return cmp.Or(err, fmt.Errorf("%d runs were counted, want %d", n, openStreams))
	}
	show("memory at rest", "%8.1f MB", []float64{rest / 1024})
	show("the most of it", "%8.1f MB", []float64{most / 1024})
	c.memory((most - rest) / openStreams)
	show("GET /health", "%8.1f ms", health)
	c.judge("of 100 the slowest", "%8.1f ms", percentile(health, 99), "≤", 50)
	return nil
}

func (c crowd) one(ctx context.Context, s *server, opened chan<- struct{}) error {
	open, err := open(ctx, c.client, s.url+c.path, c.body, c.arrived)
	if err != nil {
		return err
	}
	defer open.body.Close()
	opened <- struct{}{}
	select {
	case <-c.reading:
		return open.rest()
	case <-ctx.Done():
		return ctx.Err()
	}
}

// runs is how many runs have ended, which the server counts.
func runs(s *server) (n int, err error) {
	body, err := answer(http.DefaultClient, request(http.MethodGet, s.url+"/usage", root, ""))
	if err != nil {
		return 0, err
	}
	var page struct {
		Usage []struct {
			Agent    string
			Requests int
		}
	}
	err = json.Unmarshal(body, &page)
	for _, row := range page.Usage {
		if row.Agent != "" {
			n += row.Requests
		}
	}
	return n, err
}

// stream is a streamed answer that has begun.
type stream struct {
	body    io.ReadCloser
	lines   *bufio.Scanner
	arrived func(text string) // is told of each delta
	text    strings.Builder
}

// open asks for a stream and reads up to its first delta.
func open(ctx context.Context, client *http.Client, url, body string, arrived func(string)) (*stream, error) {
	response, err := client.Do(request(http.MethodPost, url, root, body).WithContext(ctx))
	if err != nil {
		return nil, err
	}
	s := &stream{body: response.Body, lines: bufio.NewScanner(response.Body), arrived: arrived}
	s.lines.Buffer(make([]byte, 0, 256), 64<<10) // what it reads ahead isn't unread
	if response.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(response.Body)
		err = fmt.Errorf("%s: status %d: %s", url, response.StatusCode, text)
	} else if _, err = s.next(); err == nil {
		return s, nil
	}
	s.body.Close()
	return nil, err
}

// rest reads s to its end, and closes it.
func (s *stream) rest() error {
	defer s.body.Close()
	for {
		switch done, err := s.next(); {
		case err != nil:
			return err
		case done:
			_, err := io.Copy(io.Discard, s.body)
			return err
		}
	}
}

// next reads one event. The last one has the text of all deltas, or is OpenAI's.
func (s *stream) next() (done bool, err error) {
	for s.lines.Scan() {
		data, found := strings.CutPrefix(s.lines.Text(), "data: ")
		if !found {
			continue
		}
		var event struct {
			Delta, Response string
			Choices         []struct{ Delta struct{ Content string } }
		}
		switch err := json.Unmarshal([]byte(data), &event); {
		case data == "[DONE]" && s.text.Len() > 0:
			return true, nil
		case err != nil:
			return false, err
		case event.Response != "" && event.Response == s.text.String():
			return true, nil
		case len(event.Choices) == 1:
			event.Delta = event.Choices[0].Delta.Content
		case event.Delta == "":
			return false, fmt.Errorf("after %q: %s", s.text.String(), data)
		}
		s.text.WriteString(event.Delta)
		s.arrived(event.Delta)
		return false, nil
	}
	return false, cmp.Or(s.lines.Err(), io.ErrUnexpectedEOF)
}

func percentile(figures []float64, n int) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	return sorted[len(sorted)*n/100]
}
