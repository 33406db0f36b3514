-- The client's own clock ends a call at its deadline. A server that ended it at the same moment
-- could be first, and the client would see a reset stream (INTERNAL), not DEADLINE_EXCEEDED; so
-- the service is told a deadline one second later, which still ends what a lost client left.

local GRACE_MS = 1000
local LONGEST = 99999999 -- eight digits, as the gRPC protocol allows
local IN_MS = { H = 3600000, M = 60000, S = 1000, m = 1, u = 0.001, n = 0.000001 }

function envoy_on_request(request)
  local timeout = request:headers():get("grpc-timeout") or ""
  local value, unit = timeout:match("^(%d+)([HMSmun])$")
  if value == nil or #value > 8 then
    return
  end
  local milliseconds = math.ceil(tonumber(value) * IN_MS[unit]) + GRACE_MS
  if milliseconds <= LONGEST then
    request:headers():replace("grpc-timeout", string.format("%dm", milliseconds))
  elseif milliseconds / 1000 <= LONGEST then
    request:headers():replace("grpc-timeout", string.format("%dS", math.ceil(milliseconds / 1000)))
  end
end
