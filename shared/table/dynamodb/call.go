package dynamodb

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/service/dynamodb"
	"github.com/aws/aws-sdk-go-v2/service/dynamodb/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"postern/shared/awsclient"
	"postern/shared/table"
)

// How many tries a call has.
const (
	once  = 1
	twice = 2
)

// retryPause comes before the second try. One retry a request makes no storm, so
// it needs no jitter.
const retryPause = 50 * time.Millisecond

const late = "no answer in time"

// maxText bounds what an error repeats of somebody else's text, in bytes.
const maxText = 300

var (
	errNonsense = errors.New("the answer makes no sense")
	errOpen     = errors.New("DynamoDB: an answer was lost, and the item has changed since: whether this write happened is open")
	errBusy     = errors.New("DynamoDB: others keep changing the item: try again")
)

// conflict is a condition that wasn't met: a table.ErrConflict.
type conflict struct {
	item map[string]types.AttributeValue // as it was, if the request asked for that
}

func (*conflict) Error() string { return table.ErrConflict.Error() }
func (*conflict) Unwrap() error { return table.ErrConflict }

// call sends one operation, in a number of tries. Where an earlier try than the
// last may have happened, unseen, the fate of it is open.
func call[In, Out any](ctx context.Context, t *Table, name string, tries int,
	send func(context.Context, *In, ...func(*sdk.Options)) (*Out, error), in *In) (out *Out, open bool, err error) {
	for try := 1; ; try++ {
		out, err = func() (*Out, error) {
			ctx, cancel := context.WithTimeout(ctx, t.limit)
			defer cancel()
			return send(ctx, in)
		}()
		if err == nil {
			return out, open, nil
		}
		became, told := diagnose(err)
		if became == final || try == tries || !awsclient.Pause(ctx, retryPause) {
			switch {
			case errors.Is(told, table.ErrConflict):
				return nil, open, told
			case ctx.Err() != nil:
				told = ctx.Err()
			}
			return nil, open, fmt.Errorf("DynamoDB's %s: %w", name, told)
		}
		open = open || became == lost
	}
}

// fate is what became of a try that failed.
type fate int

const (
	final     fate = iota // it didn't happen, and won't if it is sent again
	throttled             // it didn't happen
	lost                  // it may have happened
)

// diagnose says what became of a try that failed, and what failed. What it
// returns doesn't wrap err and repeats little of it: the SDK's errors hold
// requests and items, and DynamoDB's texts may quote values.
func diagnose(err error) (became fate, told error) {
	var unmet *types.ConditionalCheckFailedException
	var exception smithy.APIError
	var response *smithyhttp.ResponseError
	var unsent *smithyhttp.RequestSendError
	var ended *smithy.CanceledError
	switch {
	case errors.As(err, &unmet):
		return final, &conflict{unmet.Item}
	case errors.Is(err, awsclient.ErrNoCredentials):
		return final, awsclient.ErrNoCredentials
	case errors.Is(err, awsclient.ErrProvider):
		return final, awsclient.ErrProvider
	case errors.Is(err, errNonsense):
		return lost, errNonsense
	case errors.As(err, &ended):
		return lost, errors.New(late)
	case errors.As(err, &unsent):
		return lost, errors.New(unanswered(unsent.Err))
	case !errors.As(err, &response): // the SDK didn't send it
		return final, errors.New(quote(err.Error()))
	case response.HTTPStatusCode() < http.StatusMultipleChoices:
		return lost, errNonsense
	}
	told = fmt.Errorf("HTTP status %d", response.HTTPStatusCode())
	code := ""
	if errors.As(err, &exception) {
		code = exception.ErrorCode()
		told = fmt.Errorf("%w, %.64q", told, code)
	}
	switch code {
	case "ProvisionedThroughputExceededException", "ThrottlingException", "RequestLimitExceeded":
		return throttled, told
	case "AccessDeniedException":
		return final, fmt.Errorf("%w: %s", told, quote(exception.ErrorMessage()))
	case "ResourceNotFoundException":
		return final, fmt.Errorf("%w: there is no such table in this region: see TABLE_NAME and AWS_REGION", told)
	}
	switch status := response.HTTPStatusCode(); {
	case status == http.StatusTooManyRequests:
		return throttled, told
	case status >= http.StatusBadRequest && status < http.StatusInternalServerError && status != http.StatusRequestTimeout:
		return final, told
	}
	return lost, told
}

// unanswered says why there is no answer. The transport's own text may quote
// what came instead of one.
func unanswered(err error) string {
	var timeout net.Error
	var network *net.OpError
	switch {
	case errors.As(err, &timeout) && timeout.Timeout():
		return late
	case errors.As(err, &network):
		return "no answer: " + quote(network.Error())
	}
	return "no answer: the connection broke off"
}

// quote makes somebody else's text one bounded line.
func quote(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return fmt.Sprintf("%q", s)
}

// strict passes on what looks whole. The SDK takes an empty answer for an item
// that isn't there, or for a write that happened; and of a checksum that doesn't
// fit it only writes a log line.
type strict struct{ sdk.HTTPClient }

func (s strict) Do(req *http.Request) (*http.Response, error) {
	resp, err := s.HTTPClient.Do(req)
	if err != nil || resp.StatusCode >= http.StatusMultipleChoices {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	sum := resp.Header.Get("X-Amz-Crc32")
	if sum != "" && sum != strconv.FormatUint(uint64(crc32.ChecksumIEEE(body)), 10) || !json.Valid(body) {
		return nil, errNonsense
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}
