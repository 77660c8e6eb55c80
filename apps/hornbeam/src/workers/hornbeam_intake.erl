%% SPDX-License-Identifier: Apache-2.0

%% @private How much of what a worker has said waits to be looked at.
%%
%% A port reads whatever its program writes, and puts it into the mailbox of its owner, however long
%% that is already: nothing holds up a program that writes faster than the owner reads. An orderly
%% worker is bounded by the windows of its requests; one that is not is found out here, before the
%% node is out of memory. The port itself counts what it has read, so the difference to what was
%% looked at is what waits.
%%
%% Where packets wait, their owner goes before other processes, for a while. A thousand sockets that
%% are written to would else have a turn each between two of its packets, with one message each; so
%% they find all that is for them, and write it at once.
-module(hornbeam_intake).

%% API
-export([new/1]).
-export([took/2]).

-export_type([intake/0]).

-record(intake, {
    port :: port(),
    taken_bytes = 0 :: non_neg_integer(),
    %% When to look next, by the bytes taken.
    look_at_bytes :: pos_integer(),
    %% Whether the owner goes before others: for how many packets it still does, or that it has
    %% done so for long enough until none waits.
    urgent = false :: false | non_neg_integer() | was
}).

-opaque intake() :: #intake{}.

%% How often is looked.
-define(LOOK_BYTES, 1048576).
%% More than the windows of a worker full of requests come to.
-define(MAX_WAITING_BYTES, 134217728).
%% A packet of so many bytes is one of many messages, or of large ones: then it is looked at how many
%% wait behind it. With so many the owner goes before others, for so many packets in a row at most: a
%% worker that never ceases must not keep them from running.
-define(LARGE_BYTES, 16384).
-define(WAITING_PACKETS, 4).
-define(URGENT_PACKETS, 128).

-spec new(port()) -> intake().
new(Port) ->
    #intake{port = Port, look_at_bytes = ?LOOK_BYTES}.

%% @doc A packet of so many bytes is about to be looked at, by the process that owns the port. `look':
%% it is time to look after others too who may be behind; `flooded': too many bytes wait.
-spec took(non_neg_integer(), intake()) ->
    {ok | look, intake()} | {flooded, WaitingBytes :: pos_integer()}.
took(Bytes, Intake0 = #intake{taken_bytes = Before, look_at_bytes = LookAt}) ->
    Intake = urge(Bytes, Intake0),
    case Before + Bytes of
        Taken when Taken < LookAt -> {ok, Intake#intake{taken_bytes = Taken}};
        Taken -> look(Intake#intake{taken_bytes = Taken, look_at_bytes = Taken + ?LOOK_BYTES})
    end.

look(Intake = #intake{port = Port, taken_bytes = Taken}) ->
    case erlang:port_info(Port, input) of
        {input, Read} when Read - Taken > ?MAX_WAITING_BYTES -> {flooded, Read - Taken};
        _ -> {look, Intake}
    end.

urge(Bytes, Intake = #intake{urgent = false}) when Bytes < ?LARGE_BYTES ->
    Intake;
urge(_, Intake = #intake{urgent = Urgent}) ->
    {message_queue_len, Waiting} = process_info(self(), message_queue_len),
    Intake#intake{urgent = urgent(Waiting, Urgent)}.

urgent(0, false) ->
    false;
urgent(0, _) ->
    go_before(normal, false);
urgent(Waiting, false) when Waiting >= ?WAITING_PACKETS ->
    go_before(high, ?URGENT_PACKETS);
urgent(_, 0) ->
    go_before(normal, was);
urgent(_, Left) when is_integer(Left) ->
    Left - 1;
urgent(_, Urgent) ->
    Urgent.

go_before(Priority, Urgent) ->
    _ = process_flag(priority, Priority),
    Urgent.
