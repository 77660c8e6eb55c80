%% SPDX-License-Identifier: Apache-2.0

%% @private What the log says of a worker: what it has told itself, and that its loop is blocked.
-module(hornbeam_worker_log).

-include_lib("kernel/include/logger.hrl").

%% API
-export([told/2]).
-export([stopped/1]).
-export([blocked/2]).
-export([replaced_after_timeout/1]).
-export([ids_text/1]).
-export([text/1]).

%% @doc Log a `log' message of a worker. Without a domain: the default handler shows no domain but
%% OTP's. Of the report only what is known: other fields would be taken for those of the log event,
%% and wrong ones break handlers.
-spec told(atom(), map()) -> ok.
told(Level, Report) ->
    Text = [request_text(Report), log_text(Report)],
    Fields = maps:filter(fun(_, Value) -> is_integer(Value) end, maps:with([request_id], Report)),
    case lists:member(Level, [emergency, alert, critical, error, warning, notice, info, debug]) of
        true -> logger:log(Level, "~ts", [Text], Fields);
        false -> ok
    end.

%% The default formatter shows no metadata.
request_text(#{request_id := RequestId}) when is_integer(RequestId) ->
    io_lib:format("request ~tp: ", [RequestId]);
request_text(_) ->
    "".

log_text(#{message := Message}) when is_binary(Message) -> hornbeam_error:text(Message);
log_text(_) -> "".

%% @doc Log what a worker says at its end, if that is worth it.
-spec stopped(map()) -> ok.
stopped(#{lifespan := failed} = Facts) ->
    ?LOG_ERROR(#{what => lifespan_shutdown_failed, message => maps:get(message, Facts, <<>>)});
stopped(_) ->
    ok.

%% @doc Log where a worker is blocked, as it said itself, or that it does not say.
-spec blocked(#{worker_id := pos_integer(), os_pid := pos_integer() | undefined,
                blocked_ms := non_neg_integer()}, Report :: map() | no_stack) -> ok.
blocked(Facts, no_stack) ->
    log(Facts#{location => undefined, stack => undefined, requests => []});
blocked(Facts, Report) ->
    log(maps:merge(Facts, Report)).

log(#{worker_id := WorkerId, os_pid := OsPid, blocked_ms := BlockedMs} = Facts) ->
    #{location := Location, stack := Stack, requests := Requests} = Facts,
    ?LOG_WARNING(#{what => loop_blocked, worker_id => WorkerId, os_pid => OsPid,
                   blocked_ms => BlockedMs, location => Location, stack => Stack,
                   requests => Requests},
                 #{report_cb => fun ?MODULE:text/1}).

%% @doc Log that a worker is being replaced for requests that had no answer in time.
-spec replaced_after_timeout([hornbeam_protocol:request_id()]) -> ok.
replaced_after_timeout(Ids) ->
    ?LOG_WARNING(#{what => worker_replaced_after_timeout, request_ids => Ids},
                 #{report_cb => fun ?MODULE:ids_text/1}).

%% @doc As the default formatter shows reports, but for numbers that it would take for a text.
-spec ids_text(map()) -> {io:format(), [term()]}.
ids_text(#{what := What, request_ids := Ids}) ->
    {"    request_ids: ~w~n    what: ~ts", [Ids, What]}.

%% @doc As the default formatter shows it: a stack of several lines is to be read.
-spec text(map()) -> {io:format(), [term()]}.
text(Facts = #{location := undefined}) ->
    #{worker_id := WorkerId, os_pid := OsPid, blocked_ms := BlockedMs} = Facts,
    {"worker ~tp (process ~tp) has been blocked for ~b ms, and does not say where: C code holds the "
     "interpreter, or the process is stopped", [WorkerId, OsPid, BlockedMs]};
text(Facts) ->
    #{worker_id := WorkerId, os_pid := OsPid, blocked_ms := BlockedMs, location := Location,
      stack := Stack, requests := Requests} = Facts,
    {"the event loop of worker ~tp (process ~tp) has been blocked for ~b ms at ~ts~n~ts~n"
     "requests under way: ~ts",
     [WorkerId, OsPid, BlockedMs, Location, Stack, requests_text(Requests)]}.

requests_text([]) -> "none";
requests_text(Requests) -> lists:join(", ", [io_lib:format("~b ~ts", [Id, Where])
                                             || {Id, Where} <- Requests]).
