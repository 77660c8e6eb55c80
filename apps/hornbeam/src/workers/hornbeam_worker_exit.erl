%% SPDX-License-Identifier: Apache-2.0

%% @private Why a worker has ended: as a text, and as the reason of a start that has failed.
-module(hornbeam_worker_exit).

%% API
-export([of_status/2]).
-export([text/1]).
-export([start_reason/2]).
-export([error_text/1]).
-export([readable/1]).

-type reason() :: term().
%% The exit reason of a worker process, or `{replaced, Why}' for one that had to make room.

-type phase() :: starting | ready | stopping.
%% Of the worker, when it ended.

-type cause() ::
    {failed, Name :: atom(), Facts :: map()}
  | {exit_status, non_neg_integer()}
  | {protocol_error, binary()}
  | {port_closed, term()}
  | {writer_ended, term()}
  | {stalled, Milliseconds :: non_neg_integer()}
  | {flooded, WaitingBytes :: pos_integer() | connection}
  | stopped.
%% With what a worker process exits that has ended as foreseen: `{shutdown, cause()}'.

-export_type([reason/0, phase/0, cause/0]).

%% The worker's exit status for a packet that it cannot understand (sysexits: EX_SOFTWARE).
-define(EXIT_PROTOCOL, 70).

%% @doc Why an OS process has ended that had this exit status. One that was killed while it was about
%% to stop has not stopped.
-spec of_status(non_neg_integer(), phase()) ->
    stopped | {protocol_error, binary()} | {exit_status, non_neg_integer()}.
of_status(0, stopping) -> stopped;
of_status(?EXIT_PROTOCOL, _) -> {protocol_error, <<"told by the worker">>};
of_status(Status, _) -> {exit_status, Status}.

-spec text(reason()) -> binary().
text(Reason) ->
    unicode:characters_to_binary(chars(Reason)).

chars({shutdown, stopped}) ->
    "stopped";
chars({shutdown, {failed, Name, Facts}}) ->
    hornbeam_error:format({Name, Facts});
chars({shutdown, {exit_status, Status}}) when Status > 128 ->
    ["ended by signal ", signal_text(Status - 128)];
chars({shutdown, {exit_status, Status}}) ->
    io_lib:format("exited with status ~b", [Status]);
chars({shutdown, {stalled, SilentMs}}) ->
    io_lib:format("its event loop was blocked for ~b ms", [SilentMs]);
chars({shutdown, {flooded, connection}}) ->
    "it flooded a connection with messages";
chars({shutdown, {flooded, WaitingBytes}}) ->
    io_lib:format("it flooded the node: ~b bytes of it waited to be read", [WaitingBytes]);
chars({shutdown, {protocol_error, FirstBytes}}) ->
    io_lib:format("it broke the protocol: ~0tp", [FirstBytes]);
chars({shutdown, {port_closed, Reason}}) ->
    io_lib:format("ended while it was written to (~0tp)", [Reason]);
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

signal_text(Number) ->
    case signal_name(Number, os:type()) of
        unknown -> integer_to_list(Number);
        Name -> io_lib:format("~b (~s)", [Number, Name])
    end.

%% Only those that end a process, and have one number wherever Hornbeam runs.
signal_name(1, _) -> "SIGHUP";
signal_name(2, _) -> "SIGINT";
signal_name(3, _) -> "SIGQUIT";
signal_name(4, _) -> "SIGILL";
signal_name(6, _) -> "SIGABRT";
signal_name(8, _) -> "SIGFPE";
signal_name(9, _) -> "SIGKILL";
signal_name(11, _) -> "SIGSEGV";
signal_name(13, _) -> "SIGPIPE";
signal_name(14, _) -> "SIGALRM";
signal_name(15, _) -> "SIGTERM";
signal_name(24, _) -> "SIGXCPU";
signal_name(25, _) -> "SIGXFSZ";
signal_name(7, {unix, linux}) -> "SIGBUS";
signal_name(10, {unix, Name}) when Name =/= linux -> "SIGBUS";
signal_name(_, _) -> unknown.

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

%% @doc A report whose reason has many lines, as a human reads it; for logger.
-spec readable(logger:report()) -> {io:format(), [term()]}.
readable(#{what := What, reason := Reason}) ->
    {"~ts: ~ts", [What, Reason]}.
