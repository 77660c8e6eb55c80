%% SPDX-License-Identifier: Apache-2.0
%% The credit of request bodies against a model of what Cowboy makes of it.
%%
%% Cowboy (cowboy_http, command `flow' and update_flow/3) counts down what it delivers, stops
%% reading when the count is used up, and forgets by how much it was overdrawn when it gets more.
%% What was read into its mailbox before it stopped still comes.
-module(prop_flow).

-include("hornbeam_proper.hrl").

-import(proper_types, [integer/2, list/1, oneof/1, resize/2]).

-export([prop_window_holds_and_nothing_stalls/0]).
-export([prop_parked_body_is_bounded/0]).
-export([prop_skipping_wakes_the_socket/0]).
-export([prop_end_of_the_body_wakes_the_socket/0]).

-define(WINDOW, 250).
-define(READ_BYTES, 100).
-define(ACTIVE_READS, 4).
%% What may come although no more was asked for.
-define(BURST, (?READ_BYTES * ?ACTIVE_READS)).

-record(model, {
    flow = hornbeam_flow:new(?WINDOW) :: hornbeam_flow:flow(),
    %% Cowboy's own count, whether it reads, and what it has read but not delivered.
    cowboy = ?WINDOW :: integer(),
    is_reading = true :: boolean(),
    mailbox = [] :: [pos_integer()],
    %% Bytes that the application has not taken.
    outstanding = 0 :: non_neg_integer(),
    taken = 0 :: non_neg_integer(),
    %% The most that was outstanding beyond the window of the moment.
    excess = 0 :: integer()
}).

%% Never more than the window and one burst is there that the application has not taken, and once
%% it has taken everything Cowboy reads. The window grows when four of them have been taken.
prop_window_holds_and_nothing_stalls() ->
    ?FORALL(Events, resize(150, list(event())), begin
        Model = run(Events, #model{}),
        Model#model.excess =< ?BURST andalso is_fed(Model)
    end).

%% A body that came while its request was parked: Cowboy starts its count anew when the turn has
%% come, so there may be another window and burst, but not more, and no stall.
prop_parked_body_is_bounded() ->
    ?FORALL({Before, After}, {list(arrival()), list(event())}, begin
        Parked = run(Before, #model{}),
        Model = run(After, Parked#model{cowboy = ?WINDOW, is_reading = true}),
        Model#model.excess =< ?WINDOW + 2 * ?BURST andalso is_fed(Model)
    end).

%% Whatever came before the end of the response, the socket is read after it.
prop_skipping_wakes_the_socket() ->
    ?FORALL(Events, list(event()), begin
        Model = run(Events, #model{}),
        Resumed = command(hornbeam_flow:resume(Model#model.flow), Model),
        Resumed#model.is_reading
    end).

%% At the end of a body Cowboy forgets that it has stopped reading: the stream has to know it.
prop_end_of_the_body_wakes_the_socket() ->
    ?FORALL(Events, list(event()), begin
        #model{is_reading = IsReading, flow = Flow} = run(Events, #model{}),
        IsReading =/= hornbeam_flow:is_stopped(Flow)
    end).

event() ->
    oneof([arrival(), arrival(), {take, integer(1, 2 * ?WINDOW)}]).

%% A client that sends without a pause, and Cowboy's loop.
arrival() ->
    oneof([{read, integer(1, ?READ_BYTES)}, {read, ?READ_BYTES}, deliver]).

run(Events, Model) ->
    lists:foldl(fun step/2, Model, Events).

step({read, Bytes}, Model = #model{is_reading = true, mailbox = Mailbox})
        when length(Mailbox) < ?ACTIVE_READS ->
    Model#model{mailbox = Mailbox ++ [Bytes]};
step({read, _}, Model) ->
    Model;
step(deliver, Model = #model{mailbox = []}) ->
    Model;
step(deliver, Model = #model{mailbox = [Bytes | Mailbox], cowboy = Cowboy0, flow = Flow}) ->
    Cowboy = Cowboy0 - Bytes,
    Outstanding = Model#model.outstanding + Bytes,
    Model#model{
        flow = hornbeam_flow:received(Bytes, Flow),
        cowboy = Cowboy,
        is_reading = Model#model.is_reading andalso not (Cowboy0 > 0 andalso Cowboy =< 0),
        mailbox = Mailbox,
        outstanding = Outstanding,
        excess = max(Model#model.excess, Outstanding - window(Model#model.taken))
    };
step({take, Wanted}, Model = #model{outstanding = Outstanding, flow = Flow0}) ->
    Taken = min(Wanted, Outstanding),
    {Commands, Flow} = hornbeam_flow:credit(Taken, Flow0),
    command(Commands, Model#model{flow = Flow, outstanding = Outstanding - Taken,
                                  taken = Model#model.taken + Taken}).

window(Taken) when Taken < 4 * ?WINDOW -> ?WINDOW;
window(_) -> 8 * ?WINDOW.

command([], Model) ->
    Model;
command([{flow, Size} | Commands], Model = #model{cowboy = Cowboy0}) when Size > 0 ->
    Cowboy = case Cowboy0 < 0 of
        true -> Size;
        false -> Cowboy0 + Size
    end,
    IsReading = Model#model.is_reading orelse (Cowboy0 =< 0 andalso Cowboy > 0),
    command(Commands, Model#model{cowboy = Cowboy, is_reading = IsReading}).

%% An application that takes all there is can go on.
is_fed(Model0) ->
    Delivered = run([deliver || _ <- Model0#model.mailbox], Model0),
    #model{is_reading = IsReading, cowboy = Cowboy} =
        step({take, Delivered#model.outstanding}, Delivered),
    IsReading andalso Cowboy > 0.
