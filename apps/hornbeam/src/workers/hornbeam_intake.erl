%% SPDX-License-Identifier: Apache-2.0

%% @private How much of what a worker has said waits to be looked at.
%%
%% A port reads whatever its program writes, and puts it into the mailbox of its owner, however long
%% that is already: nothing holds up a program that writes faster than the owner reads. An orderly
%% worker is bounded by the windows of its requests; one that is not is found out here, before the
%% node is out of memory. The port itself counts what it has read, so the difference to what was
%% looked at is what waits.
-module(hornbeam_intake).

%% API
-export([new/1]).
-export([took/2]).

-export_type([intake/0]).

-record(intake, {
    port :: port(),
    taken_bytes = 0 :: non_neg_integer(),
    %% When to look next, by the bytes taken.
    look_at_bytes :: pos_integer()
}).

-opaque intake() :: #intake{}.

%% How often is looked.
-define(LOOK_BYTES, 1048576).
%% More than the windows of a worker full of requests come to.
-define(MAX_WAITING_BYTES, 134217728).

-spec new(port()) -> intake().
new(Port) ->
    #intake{port = Port, look_at_bytes = ?LOOK_BYTES}.

%% @doc A packet of so many bytes is about to be looked at. `look': it is time to look after others
%% too who may be behind; `flooded': too many bytes wait.
-spec took(non_neg_integer(), intake()) ->
    {ok | look, intake()} | {flooded, WaitingBytes :: pos_integer()}.
took(Bytes, Intake = #intake{taken_bytes = Before, look_at_bytes = LookAt}) ->
    case Before + Bytes of
        Taken when Taken < LookAt -> {ok, Intake#intake{taken_bytes = Taken}};
        Taken -> look(Intake#intake{taken_bytes = Taken, look_at_bytes = Taken + ?LOOK_BYTES})
    end.

look(Intake = #intake{port = Port, taken_bytes = Taken}) ->
    case erlang:port_info(Port, input) of
        {input, Read} when Read - Taken > ?MAX_WAITING_BYTES -> {flooded, Read - Taken};
        _ -> {look, Intake}
    end.
