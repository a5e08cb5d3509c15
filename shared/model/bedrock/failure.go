package bedrock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"postern/shared/awsclient"
	"postern/shared/model"
)

// maxText bounds what an error repeats of somebody else's text, in bytes.
const maxText = 300

var (
	errCut      = errors.New("the answer was cut off")
	errTooLarge = fmt.Errorf("%w: more than %d bytes", model.ErrTooLarge, maxWhole)
)

// ended is the error of a ctx that has ended.
func ended(ctx context.Context) error {
	err := ctx.Err()
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: %w", model.ErrTimeout, err)
	}
	return err
}

// diagnose says err as one of package model's failures, and whether it is likely
// to pass. What it returns doesn't wrap err: the SDK's errors hold requests and
// whole bodies.
func diagnose(err error) (told error, passing bool) {
	var exception smithy.APIError
	var response *smithyhttp.ResponseError
	var unsent *smithyhttp.RequestSendError
	isException, isResponse := errors.As(err, &exception), errors.As(err, &response)
	if isException {
		name := upperFirst(exception.ErrorCode())
		if kind, passing := byName(name); kind != nil {
			if kind == model.ErrRefused {
				kind = model.Refusal(exception.ErrorMessage())
			}
			return fmt.Errorf("%w: %s: %s", kind, name, quote(exception.ErrorMessage())), passing
		}
	}
	switch {
	case errors.As(err, &unsent):
		kind := model.ErrFailed // it may be at work, and on the bill
		if dial, ok := errors.AsType[*net.OpError](err); ok && dial.Op == "dial" {
			kind = model.ErrUnavailable
		}
		return fmt.Errorf("%w: no answer: %s", kind, quote(withoutURL(unsent.Err).Error())), true
	case isResponse && response.HTTPStatusCode() != http.StatusOK:
		kind, passing := byStatus(response.HTTPStatusCode())
		told = fmt.Errorf("%w: HTTP status %d", kind, response.HTTPStatusCode())
		if isException {
			told = fmt.Errorf("%w, %.64q", told, exception.ErrorCode())
		}
		return told, passing
	case isException:
		return fmt.Errorf("%w: %.64q in the answer", model.ErrFailed, exception.ErrorCode()), false
	case errors.Is(err, awsclient.ErrNoCredentials):
		return fmt.Errorf("%w: %w", model.ErrUnavailable, awsclient.ErrNoCredentials), false
	case errors.Is(err, awsclient.ErrProvider):
		return fmt.Errorf("%w: %w", model.ErrUnavailable, awsclient.ErrProvider), false
	case errors.Is(err, errNonsense):
		return fmt.Errorf("%w: %w", model.ErrFailed, err), false
	case errors.Is(err, errCut):
		return fmt.Errorf("%w: %s", model.ErrFailed, quote(err.Error())), true
	case errors.Is(err, errTooLarge):
		return errTooLarge, false
	case isResponse: // garbage for a whole answer; the SDK's text has some of it
		return fmt.Errorf("%w: the answer is garbled", model.ErrFailed), false
	default: // garbage, and what the SDK refuses to send
		return fmt.Errorf("%w: %s", model.ErrFailed, quote(err.Error())), false
	}
}

// byName tells what an exception that Bedrock's API documents means, as a
// response or inside an answer, and whether it is likely to pass; nil: it isn't
// one. The text of others is left out: AWS's front answers a wrong signature
// with the request's headers, the session token among them.
//
// ResourceNotFoundException is a model that doesn't exist here or isn't switched
// on for the account: a matter of configuration, so unavailable, as access that
// is denied.
func byName(name string) (kind error, passing bool) {
	switch name {
	case "ThrottlingException", "ServiceUnavailableException", "ModelNotReadyException":
		return model.ErrUnavailable, true
	case "AccessDeniedException", "ResourceNotFoundException", "ServiceQuotaExceededException":
		return model.ErrUnavailable, false
	case "ModelTimeoutException":
		return model.ErrTimeout, false
	case "InternalServerException", "ModelStreamErrorException":
		return model.ErrFailed, true
	case "ValidationException":
		return model.ErrRefused, false
	case "ModelErrorException":
		return model.ErrFailed, false
	default:
		return nil, false
	}
}

// byStatus is byName for a response without a documented exception.
func byStatus(status int) (kind error, passing bool) {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound:
		return model.ErrUnavailable, false
	case http.StatusTooManyRequests, http.StatusServiceUnavailable:
		return model.ErrUnavailable, true
	case http.StatusRequestTimeout, http.StatusGatewayTimeout:
		return model.ErrTimeout, false
	case http.StatusRequestEntityTooLarge:
		return model.ErrTooLong, false
	default:
		return model.ErrFailed, status >= http.StatusInternalServerError
	}
}

// upperFirst makes an exception's name of its member's, which an answer carries.
func upperFirst(name string) string {
	if name == "" {
		return ""
	}
	return strings.ToUpper(name[:1]) + name[1:]
}

func withoutURL(err error) error {
	var at *url.Error
	if errors.As(err, &at) {
		return at.Err
	}
	return err
}

// quote makes somebody else's text one bounded line.
func quote(s string) string {
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "")
	}
	return fmt.Sprintf("%q", s)
}
