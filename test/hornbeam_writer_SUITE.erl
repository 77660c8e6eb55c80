%% SPDX-License-Identifier: Apache-2.0
-module(hornbeam_writer_SUITE).

-include_lib("stdlib/include/assert.hrl").

-export([suite/0]).
-export([all/0]).

-export([one_message_is_a_packet/1]).
-export([what_has_gathered_is_one_packet/1]).
-export([batches_are_bounded_in_messages/1]).
-export([batches_are_bounded_in_bytes/1]).
-export([full_pipe_holds_up_nobody_else/1]).
-export([ends_with_the_port/1]).
-export([ends_with_the_owner/1]).

%% As in hornbeam_writer.
-define(MAX_MESSAGES, 128).
-define(MAX_BYTES, 262144).

suite() ->
    [{timetrap, {seconds, 60}}].

all() ->
    [
        one_message_is_a_packet,
        what_has_gathered_is_one_packet,
        batches_are_bounded_in_messages,
        batches_are_bounded_in_bytes,
        full_pipe_holds_up_nobody_else,
        ends_with_the_port,
        ends_with_the_owner
    ].

%% Without load no message waits for another.
one_message_is_a_packet(_) ->
    {Writer, Port} = start_echo(),
    [
        begin
            send(Writer, Message),
            ?assertEqual([Message], packet(Port))
        end
     || Message <- messages(5)
    ].

%% Messages that came during a write travel together, in their order.
what_has_gathered_is_one_packet(_) ->
    {Writer, Port} = start_echo(),
    Messages = messages(20),
    while_suspended(Writer, fun() -> [send(Writer, Message) || Message <- Messages] end),
    ?assertEqual(Messages, packet(Port)).

%% However many there are, no packet has more than the bound, and none gets lost.
batches_are_bounded_in_messages(_) ->
    {Writer, Port} = start_echo(),
    Messages = messages(2 * ?MAX_MESSAGES + 1),
    while_suspended(Writer, fun() -> [send(Writer, Message) || Message <- Messages] end),
    Packets = [packet(Port) || _ <- [1, 2, 3]],
    ?assertEqual([?MAX_MESSAGES, ?MAX_MESSAGES, 1], [length(Packet) || Packet <- Packets]),
    ?assertEqual(Messages, lists:append(Packets)).

%% A packet is closed by the message that reaches the bound.
batches_are_bounded_in_bytes(_) ->
    {Writer, Port} = start_echo(),
    Half = binary:copy(<<"x">>, ?MAX_BYTES div 2),
    Messages = [{body, Id, Half, true} || Id <- [1, 2, 3]],
    while_suspended(Writer, fun() -> [send(Writer, Message) || Message <- Messages] end),
    ?assertEqual([[1, 2], [3]], [ids(packet(Port)) || _ <- [1, 2]]).

%% A peer that does not read stops the writer, and neither the owner nor those who send.
full_pipe_holds_up_nobody_else(_) ->
    Port = open_port({spawn_executable, "/bin/sleep"}, [{args, ["100"]}, {packet, 4}, binary]),
    {os_pid, OsPid} = erlang:port_info(Port, os_pid),
    Writer = hornbeam_writer:start_link(Port),
    Body = binary:copy(<<"x">>, 65536),
    [send(Writer, {body, Id, Body, true}) || Id <- lists:seq(1, 32)],
    hornbeam_test_wait:until(fun() -> process_info(Writer, status) =:= {status, suspended} end),
    send(Writer, {body, 33, Body, true}),
    %% The owner's way to write without waiting, as for replies.
    ?assertNot(port_command(Port, <<"x">>, [nosuspend])),
    ok = hornbeam_worker:kill(OsPid),
    hornbeam_test_wait:until(fun() -> not is_process_alive(Writer) end).

%% When nobody is there to write to, it ends without a noise.
ends_with_the_port(_) ->
    process_flag(trap_exit, true),
    {Writer, Port} = start_echo(),
    true = port_close(Port),
    send(Writer, {ping, 1}),
    receive {'EXIT', Writer, Reason} -> ?assertEqual(normal, Reason) end.

%% It does not outlive the worker's process.
ends_with_the_owner(_) ->
    Self = self(),
    Owner = spawn(fun() -> Self ! {writer, start_echo()}, receive stop -> exit(killed) end end),
    {Writer, _} = receive {writer, Started} -> Started end,
    Monitor = monitor(process, Writer),
    Owner ! stop,
    receive {'DOWN', Monitor, process, Writer, Reason} -> ?assertEqual(killed, Reason) end.

%% Internal.

start_echo() ->
    Port = open_port({spawn_executable, "/bin/cat"}, [{packet, 4}, binary]),
    {hornbeam_writer:start_link(Port), Port}.

messages(Count) ->
    [{ack, Id, Id * Id} || Id <- lists:seq(1, Count)].

send(Writer, Message) ->
    ok = hornbeam_writer:send(Writer, hornbeam_protocol:encode(Message)).

packet(Port) ->
    receive {Port, {data, Packet}} -> binary_to_term(Packet) end.

ids(Messages) ->
    [element(2, Message) || Message <- Messages].

while_suspended(Pid, Fun) ->
    true = erlang:suspend_process(Pid),
    Fun(),
    true = erlang:resume_process(Pid).
