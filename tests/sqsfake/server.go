// Package sqsfake is a fake of Amazon SQS at the level of the wire, for tests
// that use the real AWS SDK, and of what Lambda does with a queue.
//
// Start serves SendMessage, ReceiveMessage, DeleteMessage,
// ChangeMessageVisibility and GetQueueAttributes (AWS JSON 1.0) on loopback;
// Create makes a standard queue. A message that is received is invisible till its
// timeout ends or it is deleted; one that was received as often as its queue
// allows goes to the dead letters instead. Messages come in the order in which
// they were sent, at least once: Redeliver hands out anew what is in flight, as
// SQS may. Time is the one that Config.Now gives.
//
// A Mapping is Lambda's event source mapping: it takes messages, hands them to a
// function, and deletes those that its answer doesn't name as failed (mapping.go).
//
// What the fake doesn't know it refuses, and lists in Violations, where a request
// stands too that wasn't signed: every test of ours should find it empty. Inject
// makes calls fail in the ways that services fail: errors, answers that are late,
// lost or garbage, connections that break. Calls counts what arrived.
package sqsfake

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	account    = "123456789012"
	region     = "us-east-1"
	maxRequest = 2 << 20
)

// Config is the fake's surroundings. The zero value will do.
type Config struct {
	// Now is the clock of visibility and retention; nil: time.Now.
	Now func() time.Time
}

// Server is one region's SQS. It is safe for concurrent use.
type Server struct {
	// URL is what a client takes as its BaseEndpoint, or AWS_ENDPOINT_URL_SQS.
	URL string

	now    func() time.Time
	http   *httptest.Server
	closed chan struct{}

	mu         sync.Mutex
	queues     []*Queue
	faults     []*Fault
	calls      map[string]int
	total      int
	violations []string
	changed    chan struct{} // closed and replaced when a message may have become visible
}

// Start serves until Close.
func Start(cfg Config) *Server {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	s := &Server{
		now:     cfg.Now,
		closed:  make(chan struct{}),
		calls:   map[string]int{},
		changed: make(chan struct{}),
	}
	s.http = httptest.NewServer(s)
	s.URL = s.http.URL
	return s
}

// Close lets hanging calls go, ends Mappings and stops the server.
func (s *Server) Close() {
	close(s.closed)
	s.http.Close()
}

// Calls returns how many calls of an operation arrived, failed ones too; of ""
// how many of all.
func (s *Server) Calls(operation string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if operation == "" {
		return s.total
	}
	return s.calls[operation]
}

// Violations describes the calls that broke a rule; see the package.
func (s *Server) Violations() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.violations)
}

// signature is what SigV4 leaves in a request for this service. It is not
// verified: the fake doesn't know the caller's key.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=[^/ ]+/\d{8}/[a-z0-9-]+/sqs/aws4_request, ?SignedHeaders=[a-z0-9;-]*\bhost\b[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

// ServeHTTP implements http.Handler. Start has connected it already.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return // the client has left, or sends too much
	}
	operation, known := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	x := &exchange{w: w, r: r, closed: s.closed, serve: func() reply {
		switch {
		case r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.0" || !known:
			return s.refuse("UnknownOperationException", "no call of AWS JSON 1.0")
		case !signature.MatchString(r.Header.Get("Authorization")) || r.Header.Get("X-Amz-Date") == "":
			return s.refuse("MissingAuthenticationToken", "the request isn't signed with SigV4")
		}
		return s.operate(operation, body)
	}}
	if fault := s.arrive(operation); fault != nil {
		fault.act(x)
		return
	}
	x.answer(x.serve())
}

// arrive counts a call and returns the fault that is due for it, if any.
func (s *Server) arrive(operation string) *Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[operation]++
	s.total++
	for i, f := range s.faults {
		if f.operation != "" && f.operation != operation {
			continue
		}
		if f.times > 0 {
			if f.times--; f.times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return f
	}
	return nil
}

// request is every operation's.
type request struct {
	QueueURL            string `json:"QueueUrl"`
	MessageBody         string
	MaxNumberOfMessages *int
	VisibilityTimeout   *int // in seconds
	ReceiptHandle       string
	AttributeNames      []string // of the queue

	MessageSystemAttributeNames []string
}

// operate does one request, all of it or nothing.
func (s *Server) operate(operation string, body []byte) reply {
	var in request
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return s.refuse("SerializationException", "not known here: "+err.Error())
	}
	do, known := map[string]func(*Queue, request) (any, error){
		"SendMessage": sendMessage, "ReceiveMessage": receiveMessage, "DeleteMessage": deleteMessage,
		"ChangeMessageVisibility": changeMessageVisibility, "GetQueueAttributes": getQueueAttributes,
	}[operation]
	if !known {
		return s.refuse("UnknownOperationException", "not known here: "+operation)
	}
	s.mu.Lock()
	i := slices.IndexFunc(s.queues, func(q *Queue) bool { return q.URL() == in.QueueURL })
	if i < 0 {
		s.mu.Unlock()
		return failure(http.StatusBadRequest, "QueueDoesNotExist", "The specified queue does not exist.")
	}
	out, err := do(s.queues[i], in)
	s.mu.Unlock()
	switch err := err.(type) {
	case nil:
		encoded, _ := json.Marshal(out) // can't fail: strings and numbers
		return reply{http.StatusOK, encoded}
	case *refusal:
		return failure(http.StatusBadRequest, err.code, err.message)
	default:
		return s.refuse("InvalidParameterValue", err.Error())
	}
}

// refusal is an answer that a correct client may get.
type refusal struct{ code, message string }

func (r *refusal) Error() string { return r.message }

// refuse answers what we should never send.
func (s *Server) refuse(code, why string) reply {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.violations = append(s.violations, fmt.Sprintf("%s: %s", code, why))
	return failure(http.StatusBadRequest, code, why)
}

// reply is an answer that hasn't been sent yet.
type reply struct {
	status int
	body   []byte
}

// failure is an error as AWS JSON 1.0 has it: the code in __type.
func failure(status int, code, message string) reply {
	body, _ := json.Marshal(map[string]string{"__type": "com.amazonaws.sqs#" + code, "message": message}) // can't fail
	return reply{status, body}
}

// exchange is a call and what a fault can do with it.
type exchange struct {
	w      http.ResponseWriter
	r      *http.Request
	closed <-chan struct{}
	serve  func() reply // does what was asked
}

func (x *exchange) answer(a reply) {
	x.w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	x.w.WriteHeader(a.status)
	x.w.Write(a.body)
}
