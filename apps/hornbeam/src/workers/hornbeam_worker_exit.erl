%% SPDX-License-Identifier: Apache-2.0

%% @private Why a worker has ended: as a text, and as the reason of a start that has failed.
-module(hornbeam_worker_exit).

%% API
-export([text/1]).
-export([start_reason/2]).
-export([error_text/1]).

-type reason() :: term().
%% The exit reason of a worker process, or `{replaced, Why}' for one that had to make room.

-export_type([reason/0]).

-spec text(reason()) -> binary().
text(Reason) ->
    unicode:characters_to_binary(chars(Reason)).

chars({shutdown, stopped}) ->
    "stopped";
chars({shutdown, {failed, Name, Facts}}) ->
    hornbeam_error:format({Name, Facts});
chars({shutdown, {exit_status, Status}}) when Status > 128 ->
    io_lib:format("ended by signal ~b", [Status - 128]);
chars({shutdown, {exit_status, Status}}) ->
    io_lib:format("exited with status ~b", [Status]);
chars({shutdown, {stalled, SilentMs}}) ->
    io_lib:format("its event loop was blocked for ~b ms", [SilentMs]);
chars({shutdown, {protocol_error, FirstBytes}}) ->
    io_lib:format("it broke the protocol: ~0tp", [FirstBytes]);
chars({replaced, reload}) ->
    "replaced by a reload";
chars({replaced, timeout}) ->
    "replaced after a request's timeout";
chars({replaced, {max_requests, Count}}) ->
    io_lib:format("replaced after ~b requests", [Count]);
chars({replaced, {max_memory, Bytes}}) ->
    io_lib:format("replaced at ~b bytes of memory", [Bytes]);
chars(Reason) ->
    io_lib:format("~0tP", [Reason, 30]).

%% @doc What `hornbeam:start' and `hornbeam:reload' say of a worker that did not become ready.
-spec start_reason(reason(), hornbeam_slots:worker_id()) -> hornbeam_error:reason().
start_reason({shutdown, {failed, Name, Facts}}, _) ->
    {Name, Facts};
start_reason({shutdown, Reason}, WorkerId) ->
    start_reason(Reason, WorkerId);
start_reason({exit_status, Status}, WorkerId) ->
    {worker_exited, #{status => Status, worker_id => WorkerId}};
start_reason(Reason, WorkerId) ->
    {worker_exited, #{status => Reason, worker_id => WorkerId}}.

%% @doc A reason as it is logged, with the traceback where there is one.
-spec error_text(hornbeam_error:reason()) -> binary().
error_text(Reason) ->
    unicode:characters_to_binary(hornbeam_error:format(Reason)).
