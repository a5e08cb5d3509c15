// Package sqsfake is a fake of Amazon SQS at the level of the wire, for tests
// that use the real AWS SDK, and of what Lambda does with a queue.
//
// Start serves SendMessage (AWS JSON 1.0) on loopback, which is all that ours
// call; Create makes a standard queue, and Messages shows what is in it.
//
// A Mapping is Lambda's event source mapping: it receives messages, hands them to
// a function, and deletes those that its answer doesn't name as failed
// (mapping.go). A message that is received is invisible till its timeout ends;
// then it comes again, for ever. Messages come in the order in which they were
// sent, at least once: Redeliver hands out anew what is in flight, as SQS may.
//
// What the fake doesn't know it refuses, and lists in Violations, where a request
// stands too that wasn't signed, or that whoever Authorize named didn't allow:
// every test of ours should find it empty. Inject makes calls fail in the ways that
// services fail: errors, answers that are late, lost or garbage, connections that
// break. Calls counts what arrived.
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
)

const (
	account    = "123456789012"
	region     = "us-east-1"
	maxRequest = 2 << 20
	maxMessage = 1 << 20 // bytes
)

// Server is one region's SQS. It is safe for concurrent use.
type Server struct {
	// URL is what a client takes as its BaseEndpoint, or AWS_ENDPOINT_URL_SQS.
	URL string

	http   *httptest.Server
	closed chan struct{}

	mu         sync.Mutex
	queues     []*Queue
	allows     func(principal, action, resource, leadingKey string) bool // nil: everything
	faults     []*Fault
	calls      map[string]int
	total      int
	violations []string
	changed    chan struct{} // closed and replaced when a message may have become visible
}

// Start serves until Close.
func Start() *Server {
	s := &Server{
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

// Authorize has allows asked about each call before it is done, as IAM is: by whom,
// which is the access key's id in its signature, what ("sqs:SendMessage"), and of
// which queue (an ARN). The leading key, which is DynamoDB's, is "".
func (s *Server) Authorize(allows func(principal, action, resource, leadingKey string) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.allows = allows
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

// signature is what SigV4 leaves in a request for this service: first the access
// key's id. It is not verified: the fake doesn't know the caller's key.
var signature = regexp.MustCompile(`^AWS4-HMAC-SHA256 Credential=([^/ ]+)/\d{8}/[a-z0-9-]+/sqs/aws4_request, ?SignedHeaders=[a-z0-9;-]*\bhost\b[a-z0-9;-]*, ?Signature=[0-9a-f]{64}$`)

// ServeHTTP implements http.Handler. Start has connected it already.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if err != nil {
		return // the client has left, or sends too much
	}
	operation, known := strings.CutPrefix(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	x := &exchange{w: w, r: r, closed: s.closed, serve: func() reply {
		signer := signature.FindStringSubmatch(r.Header.Get("Authorization"))
		switch {
		case r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-amz-json-1.0" || !known:
			return s.refuse("UnknownOperationException", "no call of AWS JSON 1.0")
		case signer == nil || r.Header.Get("X-Amz-Date") == "":
			return s.refuse("MissingAuthenticationToken", "the request isn't signed with SigV4")
		}
		return s.operate(signer[1], operation, body)
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
	if len(s.faults) == 0 {
		return nil
	}
	f := s.faults[0]
	if f.times > 0 {
		if f.times--; f.times == 0 {
			s.faults = s.faults[1:]
		}
	}
	return f
}

// group is what a MessageGroupId may be, if it is there.
var group = regexp.MustCompile("^[!-~]{0,128}$")

// operate does one request of principal's, all of it or nothing.
func (s *Server) operate(principal, operation string, body []byte) reply {
	if operation != "SendMessage" {
		return s.refuse("UnknownOperationException", "not known here: "+operation)
	}
	var in struct {
		QueueURL       string `json:"QueueUrl"`
		MessageBody    string
		MessageGroupID string `json:"MessageGroupId"` // of a fair queue
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&in); err != nil {
		return s.refuse("SerializationException", "not known here: "+err.Error())
	}
	if in.MessageBody == "" || len(in.MessageBody) > maxMessage {
		return s.refuse("InvalidParameterValue", fmt.Sprintf("a message of %d bytes", len(in.MessageBody)))
	}
	if !group.MatchString(in.MessageGroupID) {
		return s.refuse("InvalidParameterValue", "a group of "+in.MessageGroupID)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.IndexFunc(s.queues, func(q *Queue) bool { return q.URL() == in.QueueURL })
	if i < 0 {
		return failure(http.StatusBadRequest, "QueueDoesNotExist", "The specified queue does not exist.")
	}
	if s.allows != nil && !s.allows(principal, "sqs:SendMessage", s.queues[i].ARN(), "") {
		why := fmt.Sprintf("User: arn:aws:sts::%s:assumed-role/%s is not authorized to perform: sqs:sendmessage on resource: %s because no identity-based policy allows the sqs:sendmessage action",
			account, principal, s.queues[i].ARN())
		s.violations = append(s.violations, "AccessDeniedException: "+why)
		return failure(http.StatusBadRequest, "AccessDeniedException", why)
	}
	id := s.queues[i].add(in.MessageBody, in.MessageGroupID)
	out, _ := json.Marshal(map[string]string{"MessageId": id, "MD5OfMessageBody": sum(in.MessageBody)}) // can't fail
	return reply{http.StatusOK, out}
}

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
