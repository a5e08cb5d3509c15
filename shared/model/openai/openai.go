// Package openai is the model.Model of every server that speaks OpenAI's chat
// completions (https://platform.openai.com/docs/api-reference/chat): OpenAI
// itself, Ollama, vLLM, LiteLLM, llama.cpp and most gateways.
//
// One Stream is one POST to <BaseURL>/chat/completions with "stream": true. The
// reply is a stream of server-sent events: each event one line "data: <JSON>",
// the last one "data: [DONE]". request.go writes the request, answer.go reads
// the events, failure.go says what a failure is to a caller and to the log.
//
// The upstream is trusted with the prompt and the key, and with nothing else:
// what it sends is bounded (a header, a line, the answer, the stream, the text
// of an error, the tokens it counts), its redirects are not followed, and of its
// text at most 300 bytes, without the key, get into an error for the log.
//
// A call that failed before an answer began is tried once more where that may
// help and costs no prompt twice; after a 200 there is no second try. Time is
// bounded by the context alone, whose deadline the caller owes: some models think
// for minutes before their first word.
//
// This is our own and not go-openai's client: that one reads lines and error
// bodies of any length, takes a stream that was cut for one that has ended, leaves
// out a temperature of 0, and refuses requests by their model's name.
package openai

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"postern/shared/model"
	"postern/shared/secret"
)

// Provider is the first half of these models' full names.
const Provider = "openai"

// ownURL is OpenAI's own server.
const ownURL = "https://api.openai.com/v1"

// Config says which server is called, and how.
type Config struct {
	// BaseURL is what "/chat/completions" is put behind, with the version that
	// most servers want: "http://localhost:11434/v1". "" is OpenAI's own.
	BaseURL string

	// Key is asked before every try, so that a key which was rotated works
	// without a restart; whoever gives it caches. White space around the key is
	// dropped. nil or an empty key: no Authorization header, as Ollama has it.
	// An error is a model.ErrUnavailable.
	Key func(context.Context) (secret.String, error)

	// HTTPClient makes the calls, except that it follows no redirects: they
	// would carry the key and the prompt elsewhere. nil: one of our own.
	HTTPClient *http.Client
}

type server struct {
	endpoint string
	key      func(context.Context) (secret.String, error)
	http     http.Client
	dialect  dialect
}

// New returns the models of one server: any name in a Request is theirs. It
// calls nobody. The error names OPENAI_BASE_URL, which is where the URL is from.
func New(c Config) (model.Model, error) {
	base := c.BaseURL
	if base == "" {
		base = ownURL
	}
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" ||
		u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		// Not repeated, since somebody may have put a key into it.
		return nil, errors.New("OPENAI_BASE_URL: write http or https, a host and a path and nothing else, for example http://localhost:11434/v1; the key belongs into OPENAI_API_KEY")
	}
	s := &server{
		endpoint: u.JoinPath("chat", "completions").String(),
		key:      c.Key,
		http:     http.Client{Transport: newTransport()},
		dialect:  dialectOf(u.Hostname()),
	}
	if c.HTTPClient != nil {
		s.http = *c.HTTPClient
	}
	s.http.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s, nil
}

// newTransport is for one server that is called often and answers slowly.
func newTransport() *http.Transport {
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: 5 * time.Second}).DialContext,
		TLSHandshakeTimeout: 5 * time.Second,
		// A local server loads a model and reads the whole prompt before its
		// header; this is for callers without a deadline alone.
		ResponseHeaderTimeout:  10 * time.Minute,
		MaxResponseHeaderBytes: 64 << 10,
		MaxIdleConnsPerHost:    64,
		// Shorter than most servers and NATs keep one, and than most pauses in
		// which a Lambda is frozen.
		IdleConnTimeout:   45 * time.Second,
		ForceAttemptHTTP2: true, // which DialContext switches off
		HTTP2:             &http.HTTP2Config{SendPingTimeout: 15 * time.Second, PingTimeout: 5 * time.Second},
	}
}

// Stream implements model.Model. Reasoning that a server sends beside the answer
// is left out; a refusal is text. Tool calls come after all text. An answer that
// was cut (model.MaxTokens, model.Filtered) has none: what the model was about
// to ask for is not known to be complete.
//
// Usage is what the server says at the end. Some servers say nothing, or nothing
// that is a number: then both of its numbers are 0, which is no measure of what
// was used.
func (s *server) Stream(ctx context.Context, req model.Request) iter.Seq2[model.Event, error] {
	return func(yield func(model.Event, error) bool) {
		fail := func(err error) { yield(model.Event{}, orEnded(ctx, err)) }
		reply, err := s.open(ctx, req)
		if err != nil {
			fail(err)
			return
		}
		defer reply.Close()

		a := newAnswer(reply)
		for {
			text, err := a.next()
			if err == io.EOF {
				break
			}
			if err != nil {
				fail(err)
				return
			}
			if !yield(model.Event{Text: text}, nil) {
				return
			}
		}
		calls, end, err := a.finish(earlierCalls(req))
		if err != nil {
			fail(err)
			return
		}
		for _, call := range calls {
			if !yield(model.Event{ToolCall: &call}, nil) {
				return
			}
		}
		yield(end, nil)
		reply.drain()
	}
}

// open sends req until it is answered, at most twice.
func (s *server) open(ctx context.Context, req model.Request) (*reply, error) {
	body, err := s.dialect.encode(req)
	if err != nil {
		return nil, fmt.Errorf("encoding a request for model %s: %w", req.Model, err)
	}
	answered, err := s.post(ctx, body)
	if f, ok := errors.AsType[*failure](err); ok && f.mayRetry && (!req.Once || model.Unused(f)) && sleep(ctx, f.wait) {
		if f.fresh {
			s.http.CloseIdleConnections() // after a burst there are more like the one that was dead
		}
		answered, err = s.post(ctx, body)
	}
	return answered, err
}

// sleep reports whether there is time left after wait. It doesn't begin to wait
// for the end of ctx: what is known already is said at once.
func sleep(ctx context.Context, wait time.Duration) bool {
	if deadline, there := ctx.Deadline(); there && time.Until(deadline) <= wait {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// reply is the body of an answer that has begun.
type reply struct {
	io.ReadCloser
	cancel context.CancelFunc
	key    secret.String // which its text must not show
	end    *time.Timer   // of endIn
}

// Close ends the call at once, however much is still to come.
func (r *reply) Close() error {
	if r.end != nil {
		r.end.Stop()
	}
	r.cancel()
	return r.ReadCloser.Close()
}

// endIn ends the call in d, if it was not told so before.
func (r *reply) endIn(d time.Duration) {
	if r.end == nil {
		r.end = time.AfterFunc(d, r.cancel)
	}
}

// drainTime is how long the end of an answer may take after its last event.
const drainTime = 50 * time.Millisecond

// drain reads the end that nearly always has arrived with the last event, so
// that the connection can be used again.
func (r *reply) drain() {
	defer time.AfterFunc(drainTime, r.cancel).Stop()
	io.CopyN(io.Discard, r, 1<<10)
}

// post is one try. The error is a *failure, but for one that is the program's own.
func (s *server) post(ctx context.Context, body []byte) (*reply, error) {
	key, err := s.readKey(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ctx, seen := watch(ctx)
	req, err := newRequest(ctx, s.endpoint, body, key)
	if err != nil {
		cancel()
		return nil, err
	}
	response, err := s.http.Do(req)
	if err != nil {
		cancel()
		return nil, notAnswered(err, seen, key)
	}
	r := &reply{ReadCloser: response.Body, cancel: cancel, key: key}
	if response.StatusCode != http.StatusOK {
		defer r.Close()
		return nil, refused(response, r)
	}
	return r, nil
}

func (s *server) readKey(ctx context.Context) (secret.String, error) {
	if s.key == nil {
		return secret.String{}, nil
	}
	key, err := s.key(ctx)
	if err != nil {
		return secret.String{}, &failure{kind: model.ErrUnavailable, text: "reading the API key: " + excerpt(err.Error(), key)}
	}
	return secret.New(strings.TrimSpace(key.Reveal())), nil
}
